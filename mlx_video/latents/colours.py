"""The colour of a latent cell at once: a linear map from its channels to red, green and blue.

It shows shapes and motion at the size of the latents, for next to no work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

FIT_SIDE = 32
"""Rows and columns of the latents that a map is fitted to."""
FIT_CELLS = (1, 2, 4, 8, 16)
FIT_PICTURES = 4
FIT_VERSION = 1
"""Changes with whatever a fit depends on besides the VAE."""


@dataclass(frozen=True, slots=True, eq=False)
class LatentColours:
    """A linear map from normalised latents to colours in [-1, 1].

    Attributes:
        factors: [C + 1, 3], float32; the last row is what latents of zero give.
    """

    factors: npt.NDArray[np.float32]

    def __call__(self, latents: mx.array) -> mx.array:
        """[C, T, H, W], float32 → frames [T, H, W, 3] in [-1, 1]."""
        factors = mx.array(self.factors)
        return mx.clip(latents.transpose(1, 2, 3, 0) @ factors[:-1] + factors[-1], -1, 1)


def draw_latents(z_dim: int) -> list[mx.array]:
    """Latents [C, 1, H, W] to fit a map to: noise of every coarseness, the same each time."""
    return [mx.array(_draw(z_dim, seed)) for seed in range(FIT_PICTURES)]


def fit_colours(latents: Sequence[mx.array], frames: Sequence[mx.array]) -> LatentColours:
    """Fit a map to latents and what a VAE makes of them.

    Args:
        latents: [C, 1, H, W] of each picture, as large as those of :func:`draw_latents`. Such as the VAE's
            encoder gives show more of what a transformer makes than noise does.
        frames: [1, h, w, 3] of each, in [-1, 1].
    """
    cells = np.concatenate([np.array(each).reshape(len(each), -1).T for each in latents])
    colours = np.concatenate([_average_cells(np.array(each)).reshape(-1, 3) for each in frames])
    with_one = np.concatenate([cells, np.ones((len(cells), 1))], axis=1)
    return LatentColours(np.linalg.lstsq(with_one, colours, rcond=None)[0].astype(np.float32))


def _draw(z_dim: int, seed: int) -> npt.NDArray[np.float32]:
    """[C, 1, H, W] of unit variance: sums of noise in squares of several sizes."""
    random, total = np.random.default_rng(seed), np.zeros((z_dim, 1, FIT_SIDE, FIT_SIDE))
    for cell in FIT_CELLS:
        noise = random.standard_normal((z_dim, 1, FIT_SIDE // cell, FIT_SIDE // cell))
        total += noise.repeat(cell, axis=2).repeat(cell, axis=3)
    return (total / math.sqrt(len(FIT_CELLS))).astype(np.float32)


def _average_cells(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean colour of every cell: frames [F, k·FIT_SIDE, k·FIT_SIDE, 3] → [F, FIT_SIDE, FIT_SIDE, 3]."""
    side = frames.shape[1] // FIT_SIDE
    squares = frames.reshape(len(frames), FIT_SIDE, side, FIT_SIDE, side, 3)
    means: npt.NDArray[np.float32] = squares.mean(axis=(2, 4))
    return means
