"""Still images, and folders of frames: lossless, written one by one, never mixed with an earlier run's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_video.errors import MediaError, RequestError
from mlx_video.media.clip import Video
from mlx_video.media.image import FrameFolderWriter, save_frames
from mlx_video.media.video import check_output, open_video_writer, read_frames, read_video_metadata


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


STILLS = [".png", ".jpg", ".jpeg", ".JPG"]
SETTINGS = {"prompt": '一只猫 <b> & "dog"', "seed": "7"}


def write_still(path: Path, frames: np.ndarray, settings: dict[str, str] | None = None) -> Path:
    with open_video_writer(path, frames.shape[2], frames.shape[1], 16, settings or {}) as writer:
        writer.write(frames)
    return path


@pytest.mark.parametrize("suffix", [*STILLS, ".webp"])
def test_one_frame_becomes_a_picture_that_carries_the_settings(tmp_path: Path, suffix: str) -> None:
    path = write_still(tmp_path / "new" / f"cat{suffix}", noise(1), SETTINGS)
    assert names(path.parent) == [path.name]
    assert read_frames(path).shape == (1, 6, 10, 3)
    assert read_video_metadata(path) == SETTINGS
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) == 1


def test_a_png_keeps_every_byte_and_a_jpeg_stays_close(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.arange(40, 200, 4, dtype=np.uint8)[:, None], (1, 40, 40))
    frames = np.stack([smooth, smooth.transpose(0, 2, 1), smooth[:, ::-1]], axis=-1)
    assert np.array_equal(read_frames(write_still(tmp_path / "a.png", frames)), frames)
    loss = read_frames(write_still(tmp_path / "a.jpg", frames)).astype(int) - frames
    assert np.abs(loss).max() <= 4  # quality 95, colours at full resolution


@pytest.mark.parametrize("suffix", STILLS)
def test_a_still_image_for_several_frames_is_refused_naming_both(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cat{suffix}"
    text = f"cat{suffix}: a {suffix} file holds one picture.*has 5"
    with pytest.raises(RequestError, match=text) as caught:
        check_output(path, num_frames=5)
    assert caught.value.field == "output_path"
    assert "--num-frames 1" in str(caught.value)
    check_output(path, num_frames=1)
    with pytest.raises(RequestError, match="holds one picture"):
        write_still(path, noise(2))
    with pytest.raises(RequestError, match="holds one picture"):
        Video(noise(2), 16.0).save(path)
    assert names(tmp_path) == []


def test_a_video_of_one_frame_saves_itself_as_a_picture(tmp_path: Path) -> None:
    path = Video(noise(1), 16.0, settings=SETTINGS).save(tmp_path / "a.png")
    assert np.array_equal(read_frames(path), noise(1))


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_one_frame_is_still_a_video_where_the_ending_says_so(tmp_path: Path, suffix: str) -> None:
    check_output(tmp_path / f"a{suffix}", num_frames=1)
    assert read_frames(write_still(tmp_path / f"a{suffix}", noise(1))).shape == (1, 6, 10, 3)


def test_settings_too_long_for_a_jpeg_do_not_cost_the_picture(tmp_path: Path) -> None:
    path = write_still(tmp_path / "a.jpg", noise(1), {"prompt": "cat " * 20_000})
    assert read_frames(path).shape == (1, 6, 10, 3)
    assert read_video_metadata(path) == {}


def test_an_interrupted_still_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = write_still(tmp_path / "a.png", noise(1))
    before = path.read_bytes()

    def interrupted_run() -> None:
        with open_video_writer(path, 10, 6, 16, {}) as writer:
            writer.write(noise(1) // 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.png"]
