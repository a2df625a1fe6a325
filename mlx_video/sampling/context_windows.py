"""Context windows: a long video is predicted in overlapping parts of a length that the model knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    """

    size: int
    overlap: int
    schedule: str = "static"
    weighting: str = "pyramid"

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
        return SCHEDULES[self.schedule](count, self.size, self.overlap, index)

    def weights(self, window: Window, count: int) -> list[float]:
        """How much each frame of a window counts where windows overlap, above 0."""
        return WEIGHTINGS[self.weighting](window, self.overlap, count)


def static_windows(count: int, size: int, overlap: int, index: int) -> list[Window]:
    """The same windows in every step; the last one is moved back to end with the video.

    Args:
        count: latent frames of the video, more than `size`.
        size, overlap: of the windows.
        index: of the step, of which nothing depends.
    """
    starts = [*range(0, count - size, size - overlap), count - size]
    return [tuple(range(start, start + size)) for start in starts]


def looped_windows(count: int, size: int, overlap: int, index: int) -> list[Window]:
    """Windows that begin elsewhere in each step and go on from the last frame to the first.

    Arguments as for :func:`static_windows`; the windows follow from the step.

    Source: comfyanonymous/ComfyUI comfy/context_windows.py, create_windows_uniform_looped, stride 1, closed.
    """
    return list(_circling(count, size, overlap, index, overhang=0))


def uniform_windows(count: int, size: int, overlap: int, index: int) -> list[Window]:
    """Windows that begin elsewhere in each step; those that would go on at the first frame end with the last.

    Arguments as for :func:`looped_windows`.

    Source: comfyanonymous/ComfyUI comfy/context_windows.py, create_windows_uniform_standard, stride 1.
    """
    windows = list(_circling(count, size, overlap, index, overhang=overlap))
    straight: list[Window] = []
    for number, window in enumerate(windows):
        if window[0] <= window[-1]:
            straight.append(window)
            continue
        straight.append(tuple(range(count - size, count)))
        following = windows[(number + 1) % len(windows)]
        if 0 not in following or following[0] > following[-1]:
            straight.append(tuple(range(size)))
    return list(dict.fromkeys(straight))


def _circling(count: int, size: int, overlap: int, index: int, overhang: int) -> Iterator[Window]:
    """Windows on the circle of all frames, from a start that depends on the step."""
    first = round(count * _halve_in_order(index))
    for start in range(first, count + first - overhang, size - overlap):
        yield tuple(frame % count for frame in range(start, start + size))


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


SCHEDULES: Mapping[str, Callable[[int, int, int, int], list[Window]]] = MappingProxyType(
    {"static": static_windows, "uniform": uniform_windows, "looped": looped_windows}
)
"""Name → frames of the video, of a window and of the overlap, and the step → windows."""
WEIGHTINGS: Mapping[str, Callable[[Window, int, int], list[float]]] = MappingProxyType(
    {"pyramid": pyramid_weights, "linear": linear_weights}
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
