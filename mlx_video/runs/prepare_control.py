"""The work of preparing controls: a video in, frame by frame through a change, a video out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from mlx_video.errors import MediaError, MLXVideoError, RequestError
from mlx_video.events import Event, FileWritten, TextResult
from mlx_video.media.control.mask_check import check_masks
from mlx_video.media.earlier_result import check_replaceable
from mlx_video.media.fit import fit_mask
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.image import FrameFolderWriter
from mlx_video.media.sources.pick_frames import Picking, pick_all, pick_frames
from mlx_video.media.sources.source_video import SourceVideo, open_video
from mlx_video.media.video import check_output, open_video_writer, read_video_metadata

DEFAULT_FPS = 16.0
"""Rate of what has none of its own, such as a folder of pictures: that of most models."""

ChangeFrame = Callable[[np.ndarray], np.ndarray]
"""Frame, uint8 RGB [H, W, 3] → the frame of the control, uint8 [h, w, 3]."""


@dataclass(frozen=True, slots=True)
class Result:
    """One file that is made of a video.

    Attributes:
        path: a video file, or a name without suffix for a folder of pictures.
        change: what is done to each frame.
        is_mask: whether to say so where it is all black or all white.
    """

    path: Path
    change: ChangeFrame
    is_mask: bool = False


@dataclass(frozen=True, slots=True)
class Preparation:
    """What to make of which video.

    Attributes:
        source: the video's path.
        results: all made in one go.
        about: what is done, in words, kept in the files.
        num_frames: how many frames; None for all.
        fps: of the results; None for the video's.
        repeats: whether the video is one picture, to be shown all the time.
    """

    source: str
    results: tuple[Result, ...]
    about: str
    num_frames: int | None = None
    fps: float | None = None
    repeats: bool = False


def prepare_control(preparation: Preparation) -> Iterator[Event]:
    """Make the files.

    Yields:
        Notices, and each file when it is complete.

    Raises:
        RequestError: the video has too few frames, or an option does not fit it.
        MediaError: the video cannot be read, or a result not written. No unfinished file is left.
    """
    video = open_video(preparation.source)
    fps = preparation.fps or video.fps or DEFAULT_FPS
    yield from video.notices
    for result in preparation.results:
        if result.path.suffix:
            check_output(result.path, preparation.num_frames or 1)
            check_replaceable(result.path)
    settings = _settings(preparation)
    frames = _choose_frames(video, preparation, fps)
    first = next(frames)
    colours: dict[Path, set[bool]] = {result.path: set() for result in preparation.results if result.is_mask}
    with ExitStack() as stack:
        writers = [
            stack.enter_context(_open_writer(result, result.change(first), fps, settings))
            for result in preparation.results
        ]
        for frame in chain([first], frames):
            for result, writer in zip(preparation.results, writers, strict=True):
                made = result.change(frame)
                writer.write(made[None])
                if result.is_mask:
                    colours[result.path] |= {bool(made.min()), bool(made.max())}
    for result in preparation.results:
        if result.is_mask:
            yield from check_masks(str(result.path), map(np.array, colours[result.path]))
        yield FileWritten(result.path)


def _choose_frames(video: SourceVideo, preparation: Preparation, fps: float) -> Iterator[np.ndarray]:
    if preparation.repeats:
        if not video.is_still:
            raise RequestError("input", f"{video.name}: is a video already. Give one picture.")
        ((picture, _),) = video.read()
        return repeat(picture, preparation.num_frames or 1)
    if preparation.num_frames is None:
        return pick_all(video, fps)
    return pick_frames(video, Picking("num_frames", preparation.num_frames, fps))


def _open_writer(result: Result, made: np.ndarray, fps: float, settings: dict[str, str]) -> FrameWriter:
    height, width = made.shape[:2]
    if not result.path.suffix:
        return FrameFolderWriter(result.path, width, height, settings)
    if result.path.suffix.lower() == ".mp4" and (width % 2 or height % 2):
        raise MediaError(
            f"{result.path}: its frames would be {width}x{height}, and MP4 needs an even width and height. "
            "Use .webp, or a name without suffix for a folder of pictures."
        )
    return open_video_writer(result.path, width, height, fps, settings)


def _settings(preparation: Preparation) -> dict[str, str]:
    """What the results tell of themselves: the settings in the source, and what was done."""
    return {
        **_settings_of(Path(preparation.source)),
        "control": preparation.about,
        "control_source": preparation.source,
    }


def _settings_of(path: Path) -> dict[str, str]:
    try:
        return read_video_metadata(path)
    except MLXVideoError:  # a file of another kind, or a folder
        return {}


def describe_control(source: str, *, is_mask: bool) -> Iterator[Event]:
    """Tell what a video is: its size, length and rate; of a mask also whether it is of one colour.

    Raises:
        MediaError: the video cannot be read.
    """
    video = open_video(source)
    yield from video.notices
    count, end, size = 0, 0.0, (0, 0)
    for frame, length in video.read():
        count, end, size = count + 1, end + length, (frame.shape[1], frame.shape[0])
    rate = f"{video.fps:g} per second, {end / video.fps:.2f} s" if video.fps else "no frame rate"
    yield TextResult(f"{video.name}: {count} frames of {size[0]}x{size[1]}, {rate}")
    if is_mask:
        yield from check_masks(video.name, _masks_of(video))


def _masks_of(video: SourceVideo) -> Iterable[np.ndarray]:
    return (fit_mask(frame, *frame.shape[:2]) for frame, _ in video.read())
