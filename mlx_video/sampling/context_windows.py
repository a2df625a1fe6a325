"""Context windows: a long video is predicted in overlapping parts of a length that the model knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

Window = tuple[int, ...]
"""Numbers of latent frames, in the order in which the transformer sees them."""

_INDEX_BITS = 64


@dataclass(frozen=True, slots=True)
class ContextWindows:
    """How the latent frames of a video are parted and joined again.

    Attributes:
        size: latent frames of a window, at least 1.
        overlap: latent frames that neighbours share, below `size`.
        schedule: name in :data:`SCHEDULES`.
        weighting: name in :data:`WEIGHTINGS`.
        levels: of windows: those of every frame, of every second one, of every fourth one and so on.
    """

    size: int
    overlap: int
    schedule: str = "static"
    weighting: str = "pyramid"
    levels: int = 1

    @property
    def moves(self) -> bool:
        """Whether each step has windows of its own."""
        return self.schedule != "static"

    def of_step(self, index: int, count: int) -> list[Window]:
        """Windows of step `index` that together cover latent frames 0 to `count` - 1.

        Each has `size` frames; a video that is no longer than a window is one.
        """
        if count <= self.size:
            return [tuple(range(count))]
        return SCHEDULES[self.schedule](self, index, count)

    def steps_between(self, count: int) -> list[int]:
        """Steps from a frame of a window to its next, level by level.

        Windows of the last levels that could be would be longer than the video; they are left out.
        """
        most = min(self.levels, math.ceil(math.log2(count / self.size)) + 1)
        return [step for level in range(most) if (self.size - 1) * (step := 2**level) < count]

    def weights(self, window: Window, count: int) -> list[float]:
        """How much each frame of a window counts where windows overlap, above 0."""
        return WEIGHTINGS[self.weighting](window, self.overlap, count)


def static_windows(windows: ContextWindows, index: int, count: int) -> list[Window]:
    """The same windows in every step; the last one is moved back to end with the video.

    Args:
        windows: how they are asked for.
        index: of the step, of which nothing depends.
        count: latent frames of the video, more than a window has.
    """
    size = windows.size
    starts = [*range(0, count - size, size - windows.overlap), count - size]
    return [tuple(range(start, start + size)) for start in starts]


def looped_windows(windows: ContextWindows, index: int, count: int) -> list[Window]:
    """Windows that begin elsewhere in each step and go on from the last frame to the first.

    Arguments as for :func:`static_windows`; the windows follow from the step.

    Source: comfyanonymous/ComfyUI comfy/context_windows.py, create_windows_uniform_looped, closed.
    """
    return list(_circling(windows, index, count, overhang=0))


def uniform_windows(windows: ContextWindows, index: int, count: int) -> list[Window]:
    """Windows that begin elsewhere in each step; those that would go on at the first frame end with the last.

    Arguments as for :func:`looped_windows`. Where a window that would have covered the first frames is moved
    away too, these get one of their own, which as published they lack.

    Source: comfyanonymous/ComfyUI comfy/context_windows.py, create_windows_uniform_standard.
    """
    circling = list(_circling(windows, index, count, overhang=windows.overlap))
    straight: list[Window] = []
    for number, window in enumerate(circling):
        again = _goes_on_at(window)
        if again is None:
            straight.append(window)
            continue
        straight.append(_moved_to_end(window, count))
        following = circling[(number + 1) % len(circling)]
        if again not in following or _goes_on_at(following) is not None:
            straight.append(tuple(range(again, again + windows.size)))
    return list(dict.fromkeys(straight))


def _circling(windows: ContextWindows, index: int, count: int, overhang: int) -> Iterator[Window]:
    """Windows on the circle of all frames, from a start that depends on the step; level after level."""
    share = _halve_in_order(index)
    around = round(count * share)
    for step in windows.steps_between(count):
        length = windows.size * step
        for start in range(int(share * step) + around, count + around - overhang, length - windows.overlap):
            yield tuple(frame % count for frame in range(start, start + length, step))


def _goes_on_at(window: Window) -> int | None:
    """The frame behind which a window has passed the end of the video; None for one that does not."""
    return next((after for before, after in pairwise(window) if after < before), None)


def _moved_to_end(window: Window, count: int) -> Window:
    """A window of the same steps that ends with the video."""
    places = _places(window, count)
    return tuple(count - 1 - places[-1] + place for place in places)


def _places(window: Window, count: int) -> list[int]:
    """How far each frame of a window is from its first, on the circle of all frames."""
    return [(frame - window[0]) % count for frame in window]


def _halve_in_order(index: int) -> float:
    """The bits of a step's number behind the point, lowest first: 0, 0.5, 0.25, 0.75, 0.125 ..."""
    return int(f"{index:0{_INDEX_BITS}b}"[::-1], 2) / 2**_INDEX_BITS


def pyramid_weights(window: Window, overlap: int, count: int) -> list[float]:
    """1, 2, 3 ... up to the middle and down again.

    Args:
        window: its frames.
        overlap: of the windows.
        count: latent frames of the video.
    """
    length = len(window)
    return [float(min(place + 1, length - place)) for place in range(length)]


def linear_weights(window: Window, overlap: int, count: int) -> list[float]:
    """1, with a ramp over the overlap at each end that is not an end of the video; arguments as for
    :func:`pyramid_weights`.

    Source: modelscope/DiffSynth-Studio diffsynth/pipelines/wan_video.py, TemporalTiler_BCTHW.
    """
    ramp = [(place + 0.5) / overlap for place in range(overlap)]
    weights = [1.0] * len(window)
    for place, value in enumerate(ramp):
        if window[0] != 0:
            weights[place] = min(weights[place], value)
        if window[-1] != count - 1:
            weights[-1 - place] = min(weights[-1 - place], value)
    return weights


def relative_weights(window: Window, overlap: int, count: int) -> list[float]:
    """1 in the middle, falling straight to almost nothing at both ends; arguments as for
    :func:`pyramid_weights`.

    Source: comfyanonymous/ComfyUI comfy/context_windows.py, ContextFuseMethods.RELATIVE.
    """
    places = _places(window, count)
    middle, half = places[-1] / 2, (places[-1] + 0.01) / 2
    return [max(0.01, 1 - abs(place - middle) / half) for place in places]


SCHEDULES: Mapping[str, Callable[[ContextWindows, int, int], list[Window]]] = MappingProxyType(
    {"static": static_windows, "uniform": uniform_windows, "looped": looped_windows}
)
"""Name → how windows are asked for, the step, and the frames of the video → windows."""
WEIGHTINGS: Mapping[str, Callable[[Window, int, int], list[float]]] = MappingProxyType(
    {"pyramid": pyramid_weights, "linear": linear_weights, "relative": relative_weights}
)
"""Name → a window, the overlap and the frames of the video → weights."""


def most_windows(windows: ContextWindows, count: int, steps: int) -> int:
    """Windows of the step that has most of them.

    Args:
        windows: of a run.
        count: latent frames of the video.
        steps: of the run.
    """
    return max(len(windows.of_step(index, count)) for index in range(steps if windows.moves else 1))
