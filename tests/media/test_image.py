"""Folders of frames: lossless, written one by one, never mixed with those of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video.errors import MediaError
from mlx_video.media.image import FrameFolderWriter, save_frames


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 6, 10, 3), dtype=np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_frames_come_back_exactly(tmp_path: Path) -> None:
    frames = noise(3)
    save_frames(tmp_path / "new" / "frames", frames, {})
    assert names(tmp_path / "new" / "frames") == ["frame_00000.png", "frame_00001.png", "frame_00002.png"]
    for index, frame in enumerate(frames):
        with Image.open(tmp_path / "new" / "frames" / f"frame_{index:05d}.png") as picture:
            assert np.array_equal(np.asarray(picture), frame)


def test_every_picture_carries_the_settings(tmp_path: Path) -> None:
    settings = {"prompt": "一只猫\n\0 a=b;", "seed": "7"}
    save_frames(tmp_path, noise(2), settings)
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert picture.text["Title"] == "一只猫\n  a=b;"
            assert json.loads(picture.text["Comment"]) == settings


def test_frames_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    with FrameFolderWriter(tmp_path, 10, 6, {}) as writer:
        writer.write(noise(2))
        assert names(tmp_path) == ["frame_00000.png", "frame_00001.png"]
        writer.write(noise(1))
        assert len(names(tmp_path)) == 3


def test_an_interruption_keeps_the_complete_frames_only(tmp_path: Path) -> None:
    def interrupted_run() -> None:
        with FrameFolderWriter(tmp_path, 10, 6, {}) as writer:
            writer.write(noise(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert names(tmp_path) == ["frame_00000.png", "frame_00001.png"]


def test_frames_of_a_longer_earlier_run_are_removed(tmp_path: Path) -> None:
    save_frames(tmp_path, noise(4), {})
    (tmp_path / "notes.txt").write_text("mine")
    save_frames(tmp_path, noise(2), {})
    assert names(tmp_path) == ["frame_00000.png", "frame_00001.png", "notes.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="file: this folder cannot take new files"):
        FrameFolderWriter(tmp_path / "file", 10, 6, {})
