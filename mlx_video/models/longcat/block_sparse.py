"""Attention in which each block of tokens sees few other blocks: those whose mean keys suit its mean query.

Source: meituan-longcat/LongCat-Video longcat_video/block_sparse_attention/bsa_interface.py.
"""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_video.geometry import Triple
from mlx_video.models.block_context import AttentionSite, attend_plainly
from mlx_video.models.dispatch import current_limits
from mlx_video.models.matmul import attend
from mlx_video.models.token_layout import TokenLayout

SIDE = 4
"""Tokens of a block along time, rows and columns."""
BLOCK = SIDE**3
SHARE = 1 - 0.9375
"""Of the blocks, those that each one sees."""


def attend_in_blocks(queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
    """Attention of :data:`mlx_video.models.block_context.Attention` among tokens; plain attention to texts.

    Raises:
        ValueError: frames, rows or columns of the tokens are no multiple of 4.
    """
    if site.kind != "self":
        return attend_plainly(queries, keys, values, site)
    grids = [_grid_of(site.context.layout, part.shape[2]) for part in (queries, keys)]
    return block_sparse(queries, keys, values, site.layer.scale, grids[0], grids[1])


def count_seen(num_blocks: int) -> int:
    """How many of the blocks each one sees; the authors' code demands at least one of 16."""
    return max(1, int(SHARE * num_blocks))


def block_sparse(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    query_grid: Triple,
    key_grid: Triple,
    seen: int | None = None,
) -> mx.array:
    """Softmax attention of each block of queries to the keys of the blocks that it sees, head by head.

    Args:
        queries: [1, N, L, D].
        keys, values: [1, N, K, D].
        scale: of the products of queries and keys.
        query_grid, key_grid: tokens (t, h, w), time-major, each a multiple of 4.
        seen: how many blocks each one sees; None for the published share.

    Returns:
        [1, N, L, D].
    """
    own = _to_blocks(queries, query_grid)
    others, contents = _to_blocks(keys, key_grid), _to_blocks(values, key_grid)
    heads, num_blocks, _, depth = own.shape
    seen = count_seen(others.shape[1]) if seen is None else seen
    # Unscaled, as only their order counts.
    scores = _mean(own) @ _mean(others).swapaxes(1, 2)
    chosen = mx.argpartition(-scores, kth=seen - 1, axis=-1)[..., :seen] if seen < others.shape[1] else None
    if chosen is None:
        chosen = mx.broadcast_to(mx.arange(others.shape[1]), scores.shape)
    head = mx.arange(heads)[:, None, None]
    found = []
    at_once = _blocks_at_once(heads, seen, depth, num_blocks)
    for start in range(0, num_blocks, at_once):
        blocks = slice(start, start + at_once)
        picked = chosen[:, blocks]
        seen_keys, seen_values = (
            part[head, picked].reshape(1, -1, seen * BLOCK, depth) for part in (others, contents)
        )
        part = own[:, blocks]
        mixed = attend(part.reshape(1, -1, BLOCK, depth), seen_keys, seen_values, scale)
        found.append(mixed.reshape(part.shape))
        mx.eval(found[-1])  # what was gathered for it is gone before the next begins
    return _from_blocks(mx.concatenate(found, axis=1), query_grid)


def _blocks_at_once(heads: int, seen: int, depth: int, num_blocks: int) -> int:
    """So many that they gather no more than all keys and values, in dispatches that are not too long."""
    rows = current_limits().rows(
        elements=heads * seen * BLOCK * max(depth, BLOCK),
        flops=4 * heads * BLOCK * seen * BLOCK * depth,
        fewest=1,
    )
    return max(1, min(rows, math.ceil(num_blocks / seen)))


def _grid_of(layout: TokenLayout, num_tokens: int) -> Triple:
    """Frames, rows and columns of neighbouring tokens of a video."""
    rows, columns = len(layout.segments[0].rows), len(layout.segments[0].columns)
    grid = (num_tokens // (rows * columns), rows, columns)
    if any(side % SIDE for side in grid):
        raise ValueError(f"tokens {grid} cannot be cut into blocks of {SIDE}x{SIDE}x{SIDE}")
    return grid


def _mean(blocks: mx.array) -> mx.array:
    """Mean of each block, [N, B, D], float32."""
    return blocks.astype(mx.float32).mean(axis=2)


def _to_blocks(tokens: mx.array, grid: Triple) -> mx.array:
    """[1, N, L, D] → [N, B, 64, D]."""
    heads, depth = tokens.shape[1], tokens.shape[3]
    t, h, w = (side // SIDE for side in grid)
    cells = tokens.reshape(heads, t, SIDE, h, SIDE, w, SIDE, depth)
    return cells.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(heads, t * h * w, BLOCK, depth)


def _from_blocks(blocks: mx.array, grid: Triple) -> mx.array:
    """[N, B, 64, D] → [1, N, L, D]."""
    heads, depth = blocks.shape[0], blocks.shape[3]
    t, h, w = (side // SIDE for side in grid)
    cells = blocks.reshape(heads, t, h, w, SIDE, SIDE, SIDE, depth)
    return cells.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(1, heads, -1, depth)
