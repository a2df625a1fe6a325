"""Attention that keeps no scores for its gradient: they are computed anew, a chunk of queries at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mlx.core as mx

from mlx_video.models.block_context import AttentionSite
from mlx_video.models.dispatch import TILE, current_limits
from mlx_video.models.elementwise import on_gpu

CHUNK_SCORES = 2**24
"""Numbers of one chunk's scores, of which a few such arrays exist at once."""
FEWEST_ROWS = 64
"""Queries of a chunk, at least: fewer have products that wait for their keys."""
FUSED_SCORES = 2**31
"""The same for MLX's fused attention, which keeps none: what a GPU computes in well under a second."""


def count_rows(row_scores: int) -> int:
    """Queries of a chunk that have so many scores each."""
    rows = max(FEWEST_ROWS, CHUNK_SCORES // row_scores)
    return rows - rows % TILE if rows > TILE else rows


def attend_for_training(queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
    """Softmax attention of all queries to all keys, with a gradient in little memory.

    Args:
        queries, keys, values, site: as for :data:`mlx_video.models.block_context.Attention`.
    """
    scale = site.layer.scale

    @mx.custom_function
    def attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        return _mix(queries, keys, values, scale)

    @attend.vjp
    def gradients(
        primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, _: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        return _mix_back(*primals, cotangent, scale)

    return attend(queries, keys, values)  # type: ignore[return-value]


def _mix(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    if on_gpu() and current_limits().fused_attention:
        fused = partial(mx.fast.scaled_dot_product_attention, k=keys, v=values, scale=scale)
        rows = max(FEWEST_ROWS, FUSED_SCORES // (keys.shape[1] * keys.shape[2]))
        return _chunk_by_chunk(lambda part: fused(q=part), rows, queries)
    turned = mx.contiguous(keys.swapaxes(-1, -2))
    return _chunk_by_chunk(
        lambda part: (_weights(part, turned, scale) @ values.astype(mx.float32)).astype(values.dtype),
        count_rows(keys.shape[1] * keys.shape[2]),
        queries,
    )


def _weights(queries: mx.array, turned_keys: mx.array, scale: float) -> mx.array:
    """Softmax of the scores [1, N, l, K], float32; `turned_keys` are [1, N, D, K]."""
    return mx.softmax((queries @ turned_keys).astype(mx.float32) * scale, axis=-1)


def _mix_back(
    queries: mx.array, keys: mx.array, values: mx.array, cotangent: mx.array, scale: float
) -> tuple[mx.array, mx.array, mx.array]:
    """Gradients of queries, keys and values; sums over queries are float32."""
    turned = mx.contiguous(keys.swapaxes(-1, -2))
    # What all values share does not count, since the weights of a row are one together. Left in, it would
    # cancel in the end, and ten times the rounding remain where most keys are those of padding.
    shared = values.astype(mx.float32).mean(axis=-2, keepdims=True).astype(values.dtype)
    turned_values = mx.contiguous((values - shared).swapaxes(-1, -2))
    sums = [mx.zeros(keys.shape), mx.zeros(values.shape)]

    def back(part: mx.array, gradient: mx.array) -> mx.array:
        weights = _weights(part, turned, scale)
        sums[1] = sums[1] + (weights.swapaxes(-1, -2).astype(gradient.dtype) @ gradient).astype(mx.float32)
        of_weights = (gradient @ turned_values).astype(mx.float32)
        rows = (weights * of_weights).sum(axis=-1, keepdims=True)
        of_scores = (weights * (of_weights - rows) * scale).astype(part.dtype)
        sums[0] = sums[0] + (of_scores.swapaxes(-1, -2) @ part).astype(mx.float32)
        # Tied to the sums, on which the next chunk waits.
        own = of_scores @ keys
        own, sums[0], sums[1] = mx.depends([own, sums[0], sums[1]], [own, sums[0], sums[1]])
        return own

    of_queries = _chunk_by_chunk(back, count_rows(keys.shape[1] * keys.shape[2]), queries, cotangent)
    return of_queries, sums[0].astype(keys.dtype), sums[1].astype(values.dtype)


def _chunk_by_chunk(function: Callable[..., mx.array], rows: int, *arrays: mx.array) -> mx.array:
    """Apply a function to some rows at a time of arrays [1, N, L, D], one chunk after the other."""
    length = arrays[0].shape[2]
    if rows >= length:
        return function(*arrays)
    chunks: list[mx.array] = []
    for start in range(0, length, rows):
        parts = [array[:, :, start : start + rows] for array in arrays]
        if chunks:
            parts = mx.depends(parts, [chunks[-1]])
        chunks.append(function(*parts))
    return mx.concatenate(chunks, axis=2)
