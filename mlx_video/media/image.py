"""Pictures go out: a still image, or a folder of numbered lossless frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_video.errors import RequestError
from mlx_video.files.whole_file import check_folder, written_whole
from mlx_video.media.earlier_result import check_replaceable, is_replaceable
from mlx_video.media.embedded_settings import settings_to_text, title_of
from mlx_video.media.frame_writer import FrameWriter

STILL_SUFFIXES = (".png", ".jpg", ".jpeg")

# Colours at full resolution, and losses too small to see.
_JPEG_QUALITY = {"quality": 95, "subsampling": 0}
_JPEG_COMMENT_BYTES = 65_533  # what the format can hold

_FRAME_NAME = re.compile(r"frame_(\d{5,})\.png")


class StillWriter(FrameWriter):
    """Writes the one frame of a text-to-image run.

    The settings go into a PNG's text chunks "Title" (prompt) and "Comment" (JSON), or a JPEG's comment.

    Args:
        path: final name; its suffix, one of `STILL_SUFFIXES`, says the format.
        width: pixels.
        height: pixels.
        metadata: the run's settings.
    """

    def __init__(self, path: Path, width: int, height: int, metadata: Mapping[str, str]) -> None:
        super().__init__(width, height)
        self._path = path
        self._metadata = dict(metadata)
        self._frames: list[np.ndarray] = []

    def _append(self, frames: np.ndarray) -> None:
        self._frames.extend(frames)
        check_still(self._path, len(self._frames))

    def _finish(self) -> None:
        from PIL import Image

        options = _png_options if self._path.suffix.lower() == ".png" else _jpeg_options
        with written_whole(self._path) as temporary:
            Image.fromarray(self._frames[0]).save(temporary, **options(self._metadata))

    def _abandon(self) -> None:
        self._frames.clear()


def check_still(path: Path, num_frames: int) -> None:
    """Refuse to put more than one frame into a still image.

    Raises:
        RequestError: there are more.
    """
    if num_frames > 1:
        raise RequestError(
            "output_path",
            f"{path}: a {path.suffix} file holds one picture, the video has {num_frames} or more frames. "
            "Use .mp4, .gif or .webp, or --num-frames 1.",
        )


class FrameFolderWriter(FrameWriter):
    """Writes `frame_00000.png`, `frame_00001.png`, … as frames arrive, without loss.

    Every picture is complete or absent, and those written before an interruption stay. `close` removes the
    higher-numbered frames that a longer run left in the same folder. Pictures of others, whatever their
    names, are neither replaced nor removed.

    Args:
        folder: is created.
        width: pixels.
        height: pixels.
        metadata: the run's settings, in each picture as text chunks "Title" (prompt) and "Comment" (JSON).

    Raises:
        MediaError: the folder takes no files.
    """

    def __init__(self, folder: Path, width: int, height: int, metadata: Mapping[str, str]) -> None:
        super().__init__(width, height)
        check_folder(folder)
        self._folder = folder
        self._metadata = dict(metadata)
        self._next = 0

    def _append(self, frames: np.ndarray) -> None:
        from PIL import Image

        options = _png_options(self._metadata)
        for frame in frames:
            path = self._folder / frame_name(self._next)
            check_replaceable(path)
            with written_whole(path) as temporary:
                Image.fromarray(frame).save(temporary, **options)
            self._next += 1

    def _finish(self) -> None:
        for index, path in numbered_frames(self._folder):
            if index >= self._next and is_replaceable(path):
                path.unlink()

    def _abandon(self) -> None:
        """Complete pictures are kept: they are the work done so far."""


def frame_name(index: int) -> str:
    """The file name of a frame, counted from 0."""
    return f"frame_{index:05d}.png"


def is_frame_name(name: str) -> bool:
    """Whether `frame_name` makes such a name, or one that is the same where capitals do not count."""
    return _FRAME_NAME.fullmatch(name.lower()) is not None


def numbered_frames(folder: Path) -> Iterator[tuple[int, Path]]:
    """Numbers and paths of what has the name of a frame in a folder; nothing where there is no folder."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if name := _FRAME_NAME.fullmatch(path.name):
            yield int(name[1]), path


def save_frames(folder: Path, frames: np.ndarray, metadata: Mapping[str, str]) -> None:
    """Write frames as numbered lossless PNGs.

    Args:
        folder: is created.
        frames: [F, H, W, 3], uint8 RGB.
        metadata: the run's settings, stored in every picture.

    Raises:
        MediaError: the folder takes no files, holds a picture of another that has a frame's name, or there
            are no frames.
        ValueError: other shape or dtype.
    """
    height, width = frames.shape[1:3]
    with FrameFolderWriter(folder, width, height, metadata) as writer:
        writer.write(frames)


def _png_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Text chunks of a PNG; Pillow takes tEXt for Latin-1 and iTXt for everything else."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("Title", title_of(metadata))
    chunks.add_text("Comment", settings_to_text(metadata))
    return {"pnginfo": chunks}


def _jpeg_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    comment = settings_to_text(metadata).encode("utf-8")
    if len(comment) > _JPEG_COMMENT_BYTES:
        comment = settings_to_text({}).encode("utf-8")
    return _JPEG_QUALITY | {"comment": comment}
