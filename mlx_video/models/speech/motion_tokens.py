"""Earlier frames as tokens: the last one fine, those before it coarser the longer ago they were."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import TransformerConfig
from mlx_video.geometry import Triple
from mlx_video.models.matmul import project
from mlx_video.models.token_layout import Axis, Segment
from mlx_video.models.transformer import patchify

# Kernel of each size of patch, and the latent frames that it packs: the nearest first.
_FINE, _HALF, _QUARTER = (1, 2, 2), (2, 4, 4), (4, 8, 8)
_PACKED = ((_FINE, 1), (_HALF, 2), (_QUARTER, 16))
MOTION_LATENTS = sum(frames for _, frames in _PACKED)
"""Latent frames that are packed."""


def _spread(length: int, count: int) -> Axis:
    """Positions of `count` coarse tokens over `length` fine ones; cut to whole ones, not rounded."""
    return tuple(map(float, np.linspace(0, length - 1, count).astype(int)))


class FramePacker(nn.Module):
    """Earlier latent frames to tokens.

    Source: Wan2.2 wan/modules/s2v/motioner.py, FramePackMotioner.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        channels = config.out_dim
        self.proj = nn.Linear(channels * math.prod(_FINE), config.dim)
        self.proj_2x = nn.Linear(channels * math.prod(_HALF), config.dim)
        self.proj_4x = nn.Linear(channels * math.prod(_QUARTER), config.dim)

    def __call__(self, latents: mx.array) -> mx.array:
        """Pack earlier frames.

        Args:
            latents: [C, T, H, W], of which the last are nearest; where there are fewer than are packed, zeros
                come before them.

        Returns:
            [L, dim], float32; rows and columns that fill no patch of a size are left out of that size.
        """
        missing = max(0, MOTION_LATENTS - latents.shape[1])
        latents = mx.pad(latents, [(0, 0), (missing, 0), (0, 0), (0, 0)])
        layers, end, parts = (self.proj, self.proj_2x, self.proj_4x), latents.shape[1], []
        for layer, (kernel, frames) in zip(layers, _PACKED, strict=True):
            part = _whole_patches(latents[:, end - frames : end], kernel)
            end -= frames
            if part.size:  # a small video has no coarse patches
                parts.append(project(layer, patchify(part, kernel)).astype(mx.float32))
        return mx.concatenate(parts)


def _whole_patches(latents: mx.array, kernel: Triple) -> mx.array:
    rows, columns = (side // patch * patch for side, patch in zip(latents.shape[2:], kernel[1:], strict=True))
    return latents[:, :, :rows, :columns]


def motion_segments(height: int, width: int) -> Iterator[Segment]:
    """Where the tokens of :class:`FramePacker` lie.

    Args:
        height, width: of the latents, in cells.
    """
    rows, columns = height // 2, width // 2
    # The four coarsest frames lie evenly over the times of the sixteen that they pack, cut to whole ones.
    times: tuple[Axis, ...] = (
        (-1.0,),
        (-3.0,),
        tuple(-float(time) for time in np.linspace(19, 4, 4).astype(int)),
    )
    for (kernel, _), moments in zip(_PACKED, times, strict=True):
        box = (_spread(rows, height // kernel[1]), _spread(columns, width // kernel[2]))
        if all(box):  # a small video has no coarse patches
            yield Segment(moments, *box, timestep=0.0, is_output=False)
