"""Small clips, captions and lists for tests of datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mlx_video.media.video import open_video_writer


def draw_frames(count: int, width: int = 32, height: int = 16, seed: int = 0) -> np.ndarray:
    """Frames that all differ, uint8 [F, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def numbered_frames(count: int, width: int = 32, height: int = 16) -> np.ndarray:
    """Flat frames whose grey tells their number, 6 levels apart."""
    greys = np.arange(count, dtype=np.uint8) * 6
    return np.broadcast_to(greys[:, None, None, None], (count, height, width, 3)).copy()


def write_video(path: Path, frames: np.ndarray, caption: str | None = None, fps: float = 16) -> Path:
    """A video file, and a caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    with open_video_writer(path, width, height, fps, {}) as writer:
        writer.write(frames)
    return _caption(path, caption)


def write_picture(path: Path, pixels: np.ndarray, caption: str | None = None) -> Path:
    """A picture, and a caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return _caption(path, caption)


def write_pictures(folder: Path, frames: np.ndarray) -> Path:
    """A video as a folder of pictures, which keeps every bit."""
    for number, pixels in enumerate(frames):
        write_picture(folder / f"{number:03}.png", pixels)
    return folder


def _caption(path: Path, caption: str | None) -> Path:
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path
