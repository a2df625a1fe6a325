"""A file that shows a video while it grows: rewritten whole, so that viewers never meet a half."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlx_video.errors import RequestError
from mlx_video.files.whole_file import check_file, remove_leftovers
from mlx_video.media.animation import AnimationWriter
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.image import STILL_SUFFIXES, StillWriter

SUFFIXES = (".webp", ".gif", *STILL_SUFFIXES)
STRIP_FRAMES = 4
LONGEST_SIDE = 320
"""Pixels of a frame's longer side, to which small frames are enlarged and large ones reduced."""


def check_preview(path: Path) -> None:
    """Make sure, before the work, that previews can be written to `path`; creates its folder.

    Raises:
        RequestError: another ending than that of a picture.
        MediaError: the name is a folder's, or the folder takes no files.
    """
    if path.suffix.lower() not in SUFFIXES:
        listed = ", ".join(SUFFIXES)
        raise RequestError(
            "preview",
            f"{path}: previews are pictures, {listed}, or `terminal`, or `off`. Choose one of these.",
        )
    check_file(path)
    remove_leftovers(path.parent)


def write_preview(path: Path, frames: np.ndarray, fps: float, settings: Mapping[str, str]) -> None:
    """Write a preview in place of the one before.

    Args:
        path: of a still picture, which gets a strip of frames, or of an animation, which gets all.
        frames: uint8 [f, h, w, 3].
        fps: at which they play.
        settings: of the run, by which the file is known as its own later.

    Raises:
        MediaError: the file cannot be written; the one before stays.
    """
    if path.suffix.lower() in STILL_SUFFIXES:
        strip = make_strip(frames)
        writer: FrameWriter = StillWriter(path, strip.shape[1], strip.shape[0], settings)
        frames = strip[None]
    else:
        frames = fit_frames(frames)
        writer = AnimationWriter(path, frames.shape[2], frames.shape[1], fps, settings)
    with writer:
        writer.write(frames)


def make_strip(frames: np.ndarray) -> np.ndarray:
    """Some frames from first to last, side by side: uint8 [f, h, w, 3] → [H, W, 3]."""
    places = np.linspace(0, len(frames) - 1, min(STRIP_FRAMES, len(frames))).round().astype(int)
    return np.concatenate(list(fit_frames(frames[places])), axis=1)


def encode_png(picture: np.ndarray) -> bytes:
    """A picture, uint8 [H, W, 3], as the content of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def fit_frames(frames: np.ndarray) -> np.ndarray:
    """Frames [f, h, w, 3] with the longer side of :data:`LONGEST_SIDE` pixels, uint8."""
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = LONGEST_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = (Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames)
    return np.stack([np.asarray(picture) for picture in resized])
