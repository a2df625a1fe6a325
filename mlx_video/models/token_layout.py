"""Which tokens a forward works on: where each lies, its timestep, and whether it is part of the result."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import mlx.core as mx
import numpy as np

from mlx_video.geometry import Triple

Axis = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Neighbouring tokens of one timestep: `start` to `stop` - 1 use row `row` of the time features."""

    start: int
    stop: int
    row: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens that fill a box of positions and share a timestep.

    Attributes:
        times, rows, columns: positions along each axis, whole or not, negative ones too. Every combination is
            a token; columns change fastest, times slowest.
        timestep: 0 to 1000 for tokens at a noise level of their own; None for that of the step.
        is_output: whether the velocity of these tokens is part of the result.
        source: number of the video or picture that they are of, whole or not; all channels of a head turn by
            it. 0 for the video that is made.
    """

    times: Axis
    rows: Axis
    columns: Axis
    timestep: float | None = None
    is_output: bool = True
    source: float = 0.0

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """Positions along time, row and column."""
        return self.times, self.rows, self.columns

    @property
    def num_tokens(self) -> int:
        """Number of positions in the box."""
        return math.prod(map(len, self.axes))


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """The whole sequence of a forward, segment after segment.

    Rotary positions, rows of the modulation and the tokens that become the velocity all follow from it.
    """

    segments: tuple[Segment, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all segments."""
        return sum(segment.num_tokens for segment in self.segments)

    @property
    def num_outputs(self) -> int:
        """Tokens whose velocity is part of the result."""
        return sum(segment.num_tokens for segment in self.segments if segment.is_output)

    def shift_times(self, distance: float) -> TokenLayout:
        """The same tokens, all of them later by `distance` positions."""
        shifted = (
            replace(segment, times=tuple(time + distance for time in segment.times))
            for segment in self.segments
        )
        return TokenLayout(tuple(shifted))

    def select_outputs(self, tokens: mx.array) -> mx.array:
        """Drop the tokens that are not part of the result.

        Args:
            tokens: [L, ...], of all segments.

        Returns:
            [num_outputs, ...], in order.
        """
        if self.num_outputs == len(tokens):
            return tokens
        spans = self._joined([int(segment.is_output) for segment in self.segments])
        return mx.concatenate([tokens[span.start : span.stop] for span in spans if span.row])

    def find_timesteps(self, timestep: float) -> tuple[np.ndarray, tuple[TokenSpan, ...]]:
        """Tell which timesteps are in use, and which tokens use which.

        Args:
            timestep: of the step, 0 to 1000, for the segments that have none of their own.

        Returns:
            The distinct timesteps [U], float64, and spans of neighbouring tokens that index them.
        """
        stated = [timestep if segment.timestep is None else segment.timestep for segment in self.segments]
        values, rows = np.unique(np.asarray(stated, dtype=np.float64), return_inverse=True)
        return values, tuple(self._joined(rows.tolist()))

    def _joined(self, rows: list[int]) -> Iterator[TokenSpan]:
        """Spans of neighbouring segments with equal rows."""
        start = 0
        for row, group in groupby(zip(rows, self.segments, strict=True), key=lambda pair: pair[0]):
            stop = start + sum(segment.num_tokens for _, segment in group)
            if stop > start:
                yield TokenSpan(start, stop, row)
            start = stop


def video_segment(
    grid: Triple,
    origin: Triple = (0, 0, 0),
    *,
    timestep: float | None = None,
    is_output: bool = True,
    source: float = 0.0,
) -> Segment:
    """A segment of whole positions.

    Args:
        grid: tokens (t, h, w).
        origin: position of the first token.
        timestep, is_output, source: as in :class:`Segment`.
    """
    times, rows, columns = (
        tuple(map(float, range(first, first + length))) for first, length in zip(origin, grid, strict=True)
    )
    return Segment(times, rows, columns, timestep, is_output, source)


def video_layout(grid: Triple, given_frames: int = 0) -> TokenLayout:
    """The layout of a video alone.

    Args:
        grid: tokens (t, h, w).
        given_frames: how many token frames at the start are free of noise: their timestep is 0.
    """
    return layout_around_given(grid, range(given_frames))


def layout_around_given(grid: Triple, given: Collection[int]) -> TokenLayout:
    """The layout of a video alone, of which some frames are given.

    Args:
        grid: tokens (t, h, w).
        given: numbers of the token frames that are free of noise: their timestep is 0.
    """
    frames, rows, columns = grid
    segments = []
    for is_given, numbers in groupby(range(frames), key=lambda number: number in given):
        first, *others = numbers
        timestep = 0.0 if is_given else None
        segments.append(video_segment((1 + len(others), rows, columns), (first, 0, 0), timestep=timestep))
    return TokenLayout(tuple(segments))


def frames_layout(times: Sequence[int], grid: Triple) -> TokenLayout:
    """The layout of a video whose frames lie at chosen positions in time.

    Args:
        times: position of each token frame.
        grid: tokens (t, h, w); t is the number of positions.
    """
    (segment,) = video_layout(grid).segments
    return TokenLayout((replace(segment, times=tuple(map(float, times))),))
