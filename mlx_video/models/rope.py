"""Rotary positions along three axes: time, row and column of a token."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_video.geometry import Triple
from mlx_video.models.elementwise import fused
from mlx_video.models.token_layout import Segment, TokenLayout

BASE = 10000.0
MAX_POSITIONS = 1024


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """Cosines and sines of every token's angles.

    Attributes:
        cos, sin: [L, 1, D/2], float32; one angle for each pair of channels, the same for all heads.
    """

    cos: mx.array
    sin: mx.array


def split_axes(head_dim: int) -> Triple:
    """Channels of a head that turn with time, row and column.

    Source: Wan2.1 wan/modules/model.py, WanModel.freqs.
    """
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def token_angles(segment: Segment, head_dim: int) -> np.ndarray:
    """Angle of every channel pair of every token.

    Args:
        segment: of L tokens, at positions between -1024 and 1024 along each axis.
        head_dim: channels of one head, even.

    Returns:
        [L, head_dim/2], float64, in the order of the tokens. Each axis starts anew at frequency 1; the
        segment's source turns the pairs of all axes, at frequencies of their own.

    Raises:
        ValueError: a position is beyond those that the models were trained with.

    Source: Wan2.1 wan/modules/model.py, rope_params and rope_apply; bytedance/Bernini
    bernini/models/transformer_wan.py, WanRotaryPosEmbed (source).
    """
    grid = tuple(map(len, segment.axes))
    per_axis = []
    for axis, (positions, channels) in enumerate(zip(segment.axes, split_axes(head_dim), strict=True)):
        if max(map(abs, positions)) >= MAX_POSITIONS:
            raise ValueError(f"token grid {grid}: positions end at {MAX_POSITIONS} along each axis")
        angles = np.asarray(positions, dtype=np.float64)[:, None] * _frequencies(channels)
        shape = [1, 1, 1, angles.shape[1]]
        shape[axis] = grid[axis]
        per_axis.append(np.broadcast_to(angles.reshape(shape), (*grid, angles.shape[1])))
    of_places = np.concatenate(per_axis, axis=-1).reshape(-1, head_dim // 2)
    return of_places + segment.source * _frequencies(head_dim) if segment.source else of_places


def _frequencies(channels: int) -> np.ndarray:
    """Angle by which each of `channels` / 2 pairs turns from one position to the next, float64."""
    return BASE ** (-np.arange(0, channels, 2, dtype=np.float64) / channels)


def build_rotary_table(layout: TokenLayout, head_dim: int) -> RotaryTable:
    """The table of a sequence; arguments and errors of :func:`token_angles`, for all of its segments."""
    angles = np.concatenate([token_angles(segment, head_dim) for segment in layout.segments])[:, None, :]
    # Rounded once, from float64: MLX has no float64 on a GPU, and float32 angles are off by 3e-5.
    return RotaryTable(
        mx.array(np.cos(angles).astype(np.float32)), mx.array(np.sin(angles).astype(np.float32))
    )


def rotate(x: mx.array, table: RotaryTable) -> mx.array:
    """Turn each pair of neighbouring channels by its token's angle.

    Args:
        x: [L, N, D], any floating type; computed in float32.
        table: of L tokens and D channels.

    Returns:
        [L, N, D] in the type of `x`.

    Source: Wan2.1 wan/modules/model.py, rope_apply.
    """
    return _rotate_pairs(x, table.cos, table.sin)


@fused
def _rotate_pairs(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    # Rounded before they are joined: joining copies both.
    turned = [(even * cos - odd * sin).astype(x.dtype), (even * sin + odd * cos).astype(x.dtype)]
    return mx.stack(turned, axis=-1).reshape(x.shape)
