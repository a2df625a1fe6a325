"""Videos come in: files, folders of pictures, animations and arrays, read one frame at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from mlx_video.addresses import AddressError, local_path
from mlx_video.errors import MediaError
from mlx_video.events import Notice
from mlx_video.files.unusable_paths import describe_apple_double, explain_missing, is_apple_double
from mlx_video.media.animation import count_pictures, read_timed_pictures
from mlx_video.media.clip import Video
from mlx_video.media.open_image import name_image, open_image
from mlx_video.media.sources.picture_folder import list_pictures
from mlx_video.media.sources.video_file import probe_frame_rate, read_video_file

if TYPE_CHECKING:
    from PIL import Image

    ImageSource = str | Path | Image.Image | np.ndarray

TimedFrame = tuple[np.ndarray, float]
"""A frame, uint8 RGB [H, W, 3], and how long it is shown, in frames at the video's rate."""

MILLISECONDS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class SourceVideo:
    """A video that can be read from its beginning as often as needed, and is never whole in memory.

    Attributes:
        name: for messages: its path, or what it is.
        fps: frames per second; None where nothing tells, as with loose pictures.
        read: begins anew and gives frame after frame, all of one size.
        is_still: whether it is one picture.
        notices: what was decided for the user.

    Reading raises MediaError where the video is damaged, or frames differ in size.
    """

    name: str
    fps: float | None
    read: Callable[[], Iterator[TimedFrame]]
    is_still: bool = False
    notices: tuple[Notice, ...] = ()


if TYPE_CHECKING:
    VideoSource = str | Path | Video | SourceVideo | np.ndarray | Sequence[ImageSource]


def name_video(source: VideoSource) -> str:
    """What messages and the record of a run call a video: its path, or what it is."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, SourceVideo):
        return source.name
    if isinstance(source, Video):
        return f"video of {len(source.frames)} frames"
    return name_image(source) if _is_picture(source) else f"{len(source)} pictures"


def _is_picture(source: object) -> TypeGuard[ImageSource]:
    """Whether it is an array or a Pillow image, which both offer themselves as arrays."""
    return hasattr(type(source), "__array_interface__")


def open_video(source: VideoSource) -> SourceVideo:
    """Recognise a video; only its beginning is read.

    Args:
        source: a video file, an animated GIF, WebP, PNG or AVIF, a folder of pictures in the order of their
            names (numbers by value), or the address of one of these; or a `Video`; or an array
            [F, H, W, 3]; or pictures one by one. Arrays are uint8, uint16, or floating in [0, 1]. One that
            is open already is given back.

    Raises:
        MediaError: there is no such file, or it holds no video.
    """
    if isinstance(source, SourceVideo):
        return source
    name = name_video(source)
    if isinstance(source, Video):
        return _from_pictures(source.frames, name, source.fps)
    if isinstance(source, np.ndarray):
        if source.ndim != 4:
            raise MediaError(f"{name}: no video. Give [F, H, W, 3].")
        return _from_pictures(source, name)
    if _is_picture(source):
        return _from_pictures([source], name)
    if not isinstance(source, str | Path):
        return _from_pictures(source, name)
    try:
        return _open_path(local_path(source), name)
    except AddressError as error:
        raise MediaError(str(error)) from error


def _from_pictures(
    pictures: Sequence[ImageSource] | np.ndarray, name: str, fps: float | None = None
) -> SourceVideo:
    if not len(pictures):
        raise MediaError(f"{name}: a video has at least one frame.")
    first = open_image(pictures[0])

    def read() -> Iterator[TimedFrame]:
        for number, picture in enumerate(pictures):
            pixels = open_image(picture).pixels
            _check_size(pixels, first.pixels, name, f"picture {number} ({name_image(picture)})")
            yield pixels, 1.0

    return SourceVideo(name, fps, read, len(pictures) == 1, first.notices)


def _check_size(pixels: np.ndarray, first: np.ndarray, name: str, which: str) -> None:
    if pixels.shape != first.shape:
        (height, width), (first_height, first_width) = pixels.shape[:2], first.shape[:2]
        raise MediaError(
            f"{name}: {which} is {width}x{height}, the first is {first_width}x{first_height}. All frames of "
            "a video have one size; crop or resize those that differ."
        )


def _open_path(path: Path, name: str) -> SourceVideo:
    if path.is_dir():
        pictures = list_pictures(path)
        if not pictures:
            raise MediaError(f"{name}: no picture in this folder. Give a folder of PNG or JPEG frames.")
        return _from_pictures(pictures, name)
    if not path.is_file():
        raise MediaError(f"{name}: {explain_missing(path, 'no such file or folder. Check the path.')}")
    if is_apple_double(path):
        raise MediaError(f"{name}: {describe_apple_double(path)}")
    pictures_inside = count_pictures(path)
    if pictures_inside == 1:
        return _from_pictures([path], name)
    return _open_animation(path, name) if pictures_inside else _open_file(path, name)


def _open_animation(path: Path, name: str) -> SourceVideo:
    lengths = [milliseconds for _, milliseconds in read_timed_pictures(path)]
    fps = MILLISECONDS * len(lengths) / sum(lengths)

    def read() -> Iterator[TimedFrame]:
        for picture, milliseconds in read_timed_pictures(path):
            yield open_image(picture).pixels, milliseconds * fps / MILLISECONDS

    return SourceVideo(name, fps, read)


def _open_file(path: Path, name: str) -> SourceVideo:
    fps = probe_frame_rate(path, name)

    def read() -> Iterator[TimedFrame]:
        for frame in read_video_file(path, name, fps):
            yield frame, 1.0

    return SourceVideo(name, fps, read)
