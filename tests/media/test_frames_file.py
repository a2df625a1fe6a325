"""Files of frames: whole or absent, exact, and never whole in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mlx_video.errors import MediaError
from mlx_video.formats.safetensors_header import read_header
from mlx_video.media.frames_file import FramesFileWriter, read_frames_file

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)


def write(path: Path, frames: np.ndarray = FRAMES, count: int = 5) -> None:
    _, height, width, _ = FRAMES.shape
    with FramesFileWriter(path, count, width, height, {"about": "a cat"}) as writer:
        for chunk in (frames[:0], frames[:2], frames[2:]):
            writer.write(chunk)


def test_frames_come_back_with_their_texts(tmp_path: Path):
    write(tmp_path / "a")
    assert np.array_equal(np.stack([*read_frames_file(tmp_path / "a")]), FRAMES)
    assert read_header(tmp_path / "a").metadata == {"about": "a cat"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nothing_of_an_unfinished_file_stays(tmp_path: Path):
    write(tmp_path / "a")
    with pytest.raises(ValueError, match="4 frames arrived, not 5"):
        write(tmp_path / "a", FRAMES[:4])
    writer = FramesFileWriter(tmp_path / "a", 5, 6, 4, {})
    writer.write(FRAMES[:1])
    writer.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len([*read_frames_file(tmp_path / "a")]) == 5


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lambda whole: whole[:-1], "a: cut short, .* Begin anew without --resume"),
        (lambda whole: whole.replace(b'"frames"', b'"weight"'), r"a: holds no frames \[F, H, W, 3\]"),
        (lambda whole: b"<html>", "a: holds no frames"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content, text: str):
    path = tmp_path / "a"
    write(path)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(MediaError, match=text):
        next(read_frames_file(path))


def test_no_more_than_a_few_frames_are_in_memory(tmp_path: Path):
    frame = np.zeros((1, 256, 256, 3), np.uint8)
    tracemalloc.start()
    with FramesFileWriter(tmp_path / "a", 40, 256, 256, {}) as writer:
        for _ in range(40):
            writer.write(frame)
    assert sum(1 for _ in read_frames_file(tmp_path / "a")) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * frame.nbytes
