"""Colours of a clip brought to those of the frame that it goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

MOST_GAIN = 1.25
"""How much contrast may change at most: beyond it, frames differ by more than their colours."""


@dataclass(frozen=True, slots=True, eq=False)
class ColourMatch:
    """A straight line for each channel.

    Attributes:
        gain, offset: [3], float32; for values from 0 to 255.
    """

    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def between(cls, found: np.ndarray, wanted: np.ndarray) -> Self:
        """The match that gives one frame the mean and contrast of another.

        Args:
            found, wanted: uint8 [H, W, 3].
        """
        found_mean, wanted_mean = (frame.mean((0, 1), dtype=np.float64) for frame in (found, wanted))
        found_std, wanted_std = (frame.std((0, 1), dtype=np.float64) for frame in (found, wanted))
        gain = np.clip(wanted_std / np.maximum(found_std, 1e-6), 1 / MOST_GAIN, MOST_GAIN)
        return cls(gain.astype(np.float32), (wanted_mean - gain * found_mean).astype(np.float32))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Frames [f, H, W, 3] in other colours, uint8."""
        return np.clip(np.rint(frames * self.gain + self.offset), 0, 255).astype(np.uint8)
