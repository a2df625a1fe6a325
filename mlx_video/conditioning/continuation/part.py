"""Where one part lies in a video that is made in several, and what is before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_video.geometry import VideoGeometry
from mlx_video.media.colour_match import ColourMatch
from mlx_video.media.fit import fit_frame
from mlx_video.media.resize import to_unit_range
from mlx_video.media.sources.source_video import SourceVideo

ReadHistory = Callable[[], Iterator[np.ndarray]]
"""Begins anew with the frames before a part: float32 [H, W, 3] in [-1, 1], of the video's size."""


@dataclass(frozen=True, slots=True, eq=False)
class MadeParts(SourceVideo):
    """The parts of a video that are finished, as the video that the next one goes on from.

    Attributes:
        parts: how many.
        frames: of these parts alone, without those of a video that the first of them goes on from.
        read_exact: the last frames, float32 [H, W, 3], as they left the decoder; None where none are kept.
        read_latents: those of each part, [C, T, H, W].

    Reading latents or exact frames raises MediaError where a file is damaged.
    """

    parts: int = 0
    frames: int = 0
    read_exact: ReadHistory | None = None
    read_latents: Callable[[], Sequence[mx.array]] = tuple


@dataclass(frozen=True, slots=True, eq=False)
class EarlierVideo:
    """What a run goes on from.

    Attributes:
        source: the video.
        tail: its last frames, uint8 [H, W, 3] each, which the clip takes.
        count: its frames.
    """

    source: SourceVideo
    tail: tuple[np.ndarray, ...]
    count: int

    @property
    def last(self) -> np.ndarray:
        """The last frame."""
        return self.tail[-1]

    @property
    def made(self) -> MadeParts | None:
        """The parts of this very video that are finished; None where it begins behind another one."""
        return self.source if isinstance(self.source, MadeParts) else None

    def frames(self, geometry: VideoGeometry) -> Iterator[np.ndarray]:
        """All frames, uint8 [H, W, 3] of the size of the results."""
        width, height = geometry.output_size
        return (fit_frame(frame, height, width) for frame, _ in self.source.read())

    def history(self, geometry: VideoGeometry) -> Iterator[np.ndarray]:
        """The last frames, float32 [H, W, 3] in [-1, 1] of the video's size; exact where they are kept so."""
        if self.made and self.made.read_exact:
            return self.made.read_exact()
        height, width = geometry.height, geometry.width
        return (to_unit_range(fit_frame(frame, height, width)) for frame in self.tail)

    def colour_match(self, shown_again: np.ndarray) -> ColourMatch:
        """What brings a clip to the colours of this video.

        Args:
            shown_again: frame of the clip, uint8 [H, W, 3], that shows the same as `last`.
        """
        return ColourMatch.between(shown_again, fit_frame(self.last, *shown_again.shape[:2]))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Where a part lies.

    Attributes:
        number: of the part, from 0.
        first_frame: from which the part reads other inputs, such as control videos and sound, counted in
            frames of the video.
        history: the frames before the part, for ways that hand them to conditioning units; None for none.
        turns_back_at: how many frames of other inputs count; behind them these go back and forth. None for
            inputs that are as long as the part needs.
    """

    number: int = 0
    first_frame: int = 0
    history: ReadHistory | None = None
    turns_back_at: int | None = None


WHOLE = Part()
"""The part of a video that is made at once."""
