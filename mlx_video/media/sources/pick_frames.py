"""Frames of a video at another frame rate and number: picked, never blended."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.media.sources.source_video import SourceVideo

# Rates are decimals of fractions: 29.97 for 30000/1001. A frame that begins so little late is on time.
_SLACK = 1e-4


@dataclass(frozen=True, slots=True)
class Picking:
    """Which frames of a video are taken.

    Attributes:
        field: the option that names the video, as a parameter.
        num_frames: how many are needed.
        fps: frames per second that they are to be shown at.
        video_fps: rate of the video where the user states it; None believes the video, and takes frames one
            by one where it does not tell.
        is_whole: whether frames at even distances from its first to its last are taken, whatever the rates.
        first: the frame that is picked first, of those that could be from the beginning.
        turns_back_at: how many of these there are; behind the last one they come again in reverse, and so
            on, back and forth. None for as many as are needed.
    """

    field: str
    num_frames: int
    fps: float
    video_fps: float | None = None
    is_whole: bool = False
    first: int = 0
    turns_back_at: int | None = None

    @property
    def numbers(self) -> list[int]:
        """The frames that are picked, counted from the beginning of the video at the new rate."""
        straight = range(self.first, self.first + self.num_frames)
        if self.turns_back_at is None:
            return [*straight]
        there_and_back = max(2 * (self.turns_back_at - 1), 1)
        return [min(at := number % there_and_back, there_and_back - at) for number in straight]

    @property
    def end(self) -> int:
        """How many frames, from the beginning at the new rate, are gone through."""
        return max(self.numbers) + 1

    def rate_of(self, video: SourceVideo) -> float:
        """Frames per second of a video."""
        return self.video_fps or video.fps or self.fps

    def step(self, video: SourceVideo) -> float:
        """Frames of a video from one that is picked to the next."""
        return self.rate_of(video) / self.fps

    def frames_needed(self, video: SourceVideo) -> int:
        """How many frames of a video are gone through until the last is picked."""
        return math.floor((self.end - 1) * self.step(video) + _SLACK) + 1


def pick_frames(video: SourceVideo, picking: Picking) -> Iterator[np.ndarray]:
    """Read a video and give what is shown at the moments of the new frame rate.

    Args:
        video: read from its beginning.
        picking: rate and number.

    Yields:
        `num_frames` frames, uint8 RGB [H, W, 3].

    Raises:
        RequestError: the video is too short.
        MediaError: it cannot be read.
    """
    if picking.is_whole:
        yield from _pick_evenly(video, picking.num_frames)
        return
    numbers, passing = picking.numbers, _pass_frames(video, picking)
    last_places = {number: place for place, number in enumerate(numbers)}
    kept: dict[int, np.ndarray] = {}
    for place, number in enumerate(numbers):
        while number not in kept:
            passed, frame = next(passing)
            if passed in last_places:
                kept[passed] = frame
        yield kept.pop(number) if last_places[number] == place else kept[number]


def _pass_frames(video: SourceVideo, picking: Picking) -> Iterator[tuple[int, np.ndarray]]:
    """Frames at the new rate from the beginning, each with its number; raises as :func:`pick_frames`."""
    step, last = picking.step(video), picking.end
    passed, end, count = 0, 0.0, 0
    for frame, length in video.read():
        end, count = end + length, count + 1
        while passed < last and passed * step < end - _SLACK:
            yield passed, frame
            passed += 1
    raise _too_short(video, picking, passed, count)


def count_frames(video: SourceVideo, fps: float, video_fps: float | None = None) -> int:
    """How many frames all of a video makes at a frame rate; arguments as for :func:`pick_all`."""
    return sum(1 for _ in pick_all(video, fps, video_fps))


def _pick_evenly(video: SourceVideo, num_frames: int) -> Iterator[np.ndarray]:
    """Frames at even distances; some come several times where the video has fewer.

    Source: bytedance/Video-As-Prompt diffusers pipeline_wan_i2v_mot.py, __call__ (frames_selection).
    """
    last = sum(1 for _ in video.read()) - 1
    wanted = even_numbers(last, num_frames)
    for number, (frame, _) in enumerate(video.read()):
        for _ in range(int(np.count_nonzero(wanted == number))):
            yield frame


def even_numbers(last: int, count: int) -> np.ndarray:
    """Whole numbers [count] from 0 to `last` at even distances, rounded down from torch's float32 values."""
    return even_places(last, count).astype(int)


def even_places(last: int, count: int) -> np.ndarray:
    """Places [count] from 0 to `last` at even distances, float32 as torch's.

    Source: PyTorch aten/src/ATen/native/cpu/RangeFactoriesKernel.cpp, linspace_kernel.
    """
    places, steps = np.arange(count), max(count - 1, 1)
    step = np.float64(np.float32(last) / np.float32(steps))
    # From both ends, so that each end is exact; product and difference are rounded together.
    values = np.where(places < count // 2, step * places, last - step * (steps - places))
    return values.astype(np.float32)


def pick_all(video: SourceVideo, fps: float, video_fps: float | None = None) -> Iterator[np.ndarray]:
    """All of a video at a frame rate, however long it is.

    Args:
        video: read from its beginning.
        fps, video_fps: as for :class:`Picking`.

    Yields:
        Frames, uint8 RGB [H, W, 3]; at least one.
    """
    step = Picking("", 1, fps, video_fps).step(video)
    taken, end = 0, 0.0
    for frame, length in video.read():
        end += length
        while taken * step < end - _SLACK:
            yield frame
            taken += 1


def check_length(video: SourceVideo, picking: Picking) -> tuple[Notice, ...]:
    """Read as much of a video as a run will, so that it fails before any other work.

    Returns:
        What to tell the user of frame rate and length.

    Raises:
        RequestError, MediaError: as :func:`pick_frames`.
    """
    if picking.is_whole:
        count = sum(1 for _ in video.read())
        picked = f"{picking.num_frames} of its {count} frames are picked at even distances."
        return (*video.notices, *([] if count == picking.num_frames else [Notice(f"{video.name}: {picked}")]))
    needed, end, count = picking.frames_needed(video), 0.0, 0
    for _, length in video.read():
        end, count = end + length, count + 1
        if end > needed + _SLACK:
            break
    taken = math.ceil((end - _SLACK) / picking.step(video))
    if taken < picking.end:
        raise _too_short(video, picking, taken, count)
    return (*video.notices, *_describe_picking(video, picking, is_longer=end > needed + _SLACK))


def _describe_picking(video: SourceVideo, picking: Picking, *, is_longer: bool) -> Iterator[Notice]:
    rate, needed = picking.rate_of(video), picking.frames_needed(video)
    if abs(rate - picking.fps) > _SLACK:
        stated = "" if picking.video_fps is None else " (--video-fps)"
        yield Notice(
            f"{video.name} has {rate:g} frames per second{stated}: {picking.num_frames} of its first "
            f"{needed} are picked for {picking.fps:g}."
        )
    elif is_longer and picking.turns_back_at in (None, picking.end):  # parts that follow may read on
        yield Notice(f"{video.name} is longer than needed: its first {needed} frames are used.")


def _too_short(video: SourceVideo, picking: Picking, taken: int, count: int) -> RequestError:
    rate, needed = picking.rate_of(video), picking.frames_needed(video)
    at_rate = f" at {rate:g} per second" if abs(rate - picking.fps) > _SLACK else ""
    shorter = "" if picking.turns_back_at else f", or --num-frames {(taken - 1) // 4 * 4 + 1}"
    return RequestError(
        picking.field,
        f"{video.name} has {count} frames{at_rate}, {needed} are needed for {picking.end} at "
        f"{picking.fps:g} per second. Give a longer video{shorter}.",
    )
