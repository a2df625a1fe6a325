"""Clips are read once, in memory that does not follow their length."""

from __future__ import annotations

import weakref
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_video.errors import DatasetError, MediaError
from mlx_video.media.sources.source_video import SourceVideo
from mlx_video.training.data import clip_reader
from mlx_video.training.data.clip_reader import (
    ClipFacts,
    measure_clip,
    open_clip,
    read_windows,
    recall_facts,
    with_last_repeated,
)
from mlx_video.training.data.frame_windows import FrameRule, Window
from tests.training.data.clip_files import draw_frames, write_picture, write_pictures

WINDOWS = st.lists(st.builds(Window, st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=12)


@given(WINDOWS)
def test_every_stretch_comes_once_with_its_own_frames(windows: list[Window]):
    frames = [np.full((1, 1, 3), number, np.uint8) for number in range(29)]
    found = dict(read_windows(frames, windows))
    assert found.keys() == set(windows)
    for window, stretch in found.items():
        numbers = [int(frame[0, 0, 0]) for frame in stretch]
        assert numbers == [*range(window.start, window.start + window.length)]


class Frame(np.ndarray):
    """Pixels that can be watched."""


def test_no_more_frames_are_in_memory_than_stretches_need():
    living: set[int] = set()
    most = 0

    def frames():
        nonlocal most
        for number in range(200):
            frame = np.zeros((2, 2, 3), np.uint8).view(Frame)
            living.add(number)
            weakref.finalize(frame, living.discard, number)
            most = max(most, len(living))
            yield frame
            del frame

    for _, stretch in read_windows(frames(), FrameRule("chunk", (5, 9)).windows(200)):
        del stretch
    assert most <= 2 * 9 + 2


def test_nothing_is_read_behind_the_last_stretch():
    read: list[int] = []

    def frames():
        for number in range(40):
            read.append(number)
            yield np.zeros((1, 1, 3), np.uint8)

    assert len([*read_windows(frames(), [Window(0, 5), Window(3, 5)])]) == 2
    assert read == [*range(8)]


def test_a_clip_that_ends_too_early_is_told():
    with pytest.raises(DatasetError, match="a clip ends before frame 7"):
        [*read_windows(draw_frames(5), [Window(0, 5), Window(2, 5)])]


def test_the_last_frame_stands_still():
    assert [*islice(with_last_repeated(iter(draw_frames(1))), 3)] != []
    numbers = [int(frame) for frame in islice(with_last_repeated([np.uint8(1), np.uint8(2)]), 4)]
    assert numbers == [1, 2, 2, 2]
    assert [*with_last_repeated([])] == []


def test_a_folder_of_pictures_is_a_clip_if_all_have_one_size(tmp_path: Path):
    folder = write_pictures(tmp_path / "a", draw_frames(3, 32, 16))
    assert measure_clip(open_clip(folder, is_picture=False), FrameRule("full"), 16) == ClipFacts(32, 16, 3)
    write_picture(folder / "004.png", draw_frames(1, 64, 48)[0])
    with pytest.raises(MediaError, match="004.png.* is 64x48, the first is 32x16"):
        measure_clip(open_clip(folder, is_picture=False), FrameRule("full"), 16)


def test_a_clip_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clip_reader, "MOST_FRAMES", 10)
    video = SourceVideo("long.mp4", None, lambda: ((frame, 1.0) for frame in draw_frames(12)))
    with pytest.raises(DatasetError, match="long.mp4: has more than 10 frames. Cut it into clips"):
        measure_clip(video, FrameRule("chunk", (5,)), 16)


def test_what_is_known_of_a_clip_is_kept_and_damage_is_mended(tmp_path: Path):
    path, facts, measured = tmp_path / "facts.json", ClipFacts(32, 16, 9), []

    def measure() -> ClipFacts:
        measured.append(1)
        return facts

    assert [recall_facts(path, measure) for _ in range(3)] == [facts] * 3
    assert len(measured) == 1
    for damage in ("", "[1]", '{"width": 1}', '{"width": 32, "height": 16, "frames": -1}', "[" * 3000):
        path.write_text(damage)
        assert recall_facts(path, measure) == facts
    assert len(measured) == 6
