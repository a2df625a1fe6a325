"""Attention of blocks to few others is what a mask makes of attention to all."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.dispatch import CPU_LIMITS, use_limits
from mlx_video.models.longcat.block_sparse import BLOCK, block_sparse, count_seen
from mlx_video.models.matmul import attend
from tests.parity.golden import fill

HEADS, DEPTH, SCALE = 2, 16, 0.25


def tokens(grid, salt):
    return mx.array(fill((1, HEADS, int(np.prod(grid)), DEPTH), salt, 1.5))


def block_numbers(grid):
    """Which block each token is in, time-major."""
    t, h, w = np.meshgrid(*map(np.arange, grid), indexing="ij")
    _, rows, columns = (side // 4 for side in grid)
    return ((t // 4 * rows + h // 4) * columns + w // 4).reshape(-1)


def masked(queries, keys, values, query_grid, key_grid, seen):
    """The same in one dense attention, float64, with a mask from means of blocks."""
    q, k, v = (np.array(part, np.float64)[0] for part in (queries, keys, values))
    own, others = block_numbers(query_grid), block_numbers(key_grid)
    means = [
        np.stack([part[:, numbers == n].mean(1) for n in range(numbers.max() + 1)], 1)
        for part, numbers in ((q, own), (k, others))
    ]
    order = np.argsort(-(means[0] @ means[1].swapaxes(1, 2)), axis=-1)[..., :seen]
    allowed = np.zeros((HEADS, own.max() + 1, others.max() + 1), bool)
    np.put_along_axis(allowed, order, True, axis=-1)
    scores = np.where(allowed[:, own][:, :, others], SCALE * q @ k.swapaxes(1, 2), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ v


@pytest.mark.parametrize("seen", [1, 3])
@pytest.mark.parametrize(("query_grid", "key_grid"), [((4, 8, 12), (4, 8, 12)), ((4, 8, 8), (8, 8, 8))])
def test_blocks_see_what_a_mask_lets_them_see(query_grid, key_grid, seen):
    queries, keys, values = tokens(query_grid, 1), tokens(key_grid, 2), tokens(key_grid, 3)
    found = block_sparse(queries, keys, values, SCALE, query_grid, key_grid, seen)
    expected = masked(queries, keys, values, query_grid, key_grid, seen)
    np.testing.assert_allclose(np.array(found)[0], expected, rtol=1e-5, atol=1e-5)


def test_blocks_that_see_all_attend_as_ever():
    grid = (4, 8, 8)
    parts = [tokens(grid, salt) for salt in (1, 2, 3)]
    found = block_sparse(*parts, SCALE, grid, grid, seen=4)
    np.testing.assert_allclose(found, attend(*parts, SCALE), rtol=1e-5, atol=1e-5)


def test_few_blocks_at_a_time_give_the_same():
    grid = (8, 8, 8)
    parts = [tokens(grid, salt) for salt in (1, 2, 3)]
    whole = block_sparse(*parts, SCALE, grid, grid, seen=2)
    small = CPU_LIMITS.__class__(chunk_elements=HEADS * 2 * BLOCK * BLOCK)
    with use_limits(small):
        cut = block_sparse(*parts, SCALE, grid, grid, seen=2)
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)


def test_the_published_share_is_seen():
    assert [count_seen(count) for count in (2640, 32, 16, 8)] == [165, 2, 1, 1]
