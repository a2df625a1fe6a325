"""A finished video as a value: saved under any name, shown in a notebook."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest

from mlx_video.errors import RequestError
from mlx_video.media.clip import Video
from mlx_video.media.video import read_frames, read_video_metadata


def clip(width: int = 16, **settings: str) -> Video:
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, width, 3), dtype=np.uint8)
    return Video(frames, 16, settings=settings)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_save_chooses_the_format_by_suffix(tmp_path: Path, name: str) -> None:
    video = clip(prompt="a cat")
    assert video.save(str(tmp_path / name)) == tmp_path / name
    assert read_frames(tmp_path / name).shape == video.frames.shape
    assert read_video_metadata(tmp_path / name) == {"prompt": "a cat"}


def test_save_without_suffix_writes_a_folder_of_frames(tmp_path: Path) -> None:
    clip().save(tmp_path / "frames")
    assert len(list((tmp_path / "frames").glob("frame_*.png"))) == 5


def test_save_refuses_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\.avi is no format"):
        clip().save(tmp_path / "a.avi")


def test_a_notebook_gets_a_complete_mp4(tmp_path: Path) -> None:
    html = clip(prompt='"><script>')._repr_html_()
    found = re.fullmatch(
        r'<video width="320" title="&quot;&gt;&lt;script&gt;" autoplay loop muted controls playsinline '
        r'src="data:video/mp4;base64,([^"]+)"></video>',
        html,
    )
    assert found
    (tmp_path / "a.mp4").write_bytes(base64.b64decode(found[1]))
    assert len(read_frames(tmp_path / "a.mp4")) == 5


@pytest.mark.parametrize(("width", "shown"), [(64, 320), (480, 480), (832, 720)])
def test_a_notebook_shows_a_readable_size(width: int, shown: int) -> None:
    assert clip(width)._repr_html_().startswith(f'<video width="{shown}"')


def test_repr_says_what_the_video_is() -> None:
    assert repr(clip()) == "Video(5 frames of 16x16, 16 fps, 0.31 s)"
    assert repr(clip(prompt="it's")) == 'Video(5 frames of 16x16, 16 fps, 0.31 s, prompt="it\'s")'
    assert len(repr(clip(prompt="x" * 1000))) < 120


def test_frames_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float64 \(1, 4, 4, 3\), expected uint8"):
        Video(np.zeros((1, 4, 4, 3)), 16)
