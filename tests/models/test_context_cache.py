"""Cached keys and values of frames against the attention over all of them under a mask."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_video.models.context_cache import BehindContext, ContextCache, KeepingAttention

HEADS, WIDTH, GROUP = 2, 8, 3
SCALE = WIDTH**-0.5


def draw(seed: int, length: int) -> list[mx.array]:
    """Queries, keys and values [1, N, L, D]."""
    keys = mx.random.split(mx.random.key(seed), 3)
    return [mx.random.normal((1, HEADS, length, WIDTH), key=key) for key in keys]


def site(kind: str = "self", index: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        kind=kind, layer=SimpleNamespace(scale=SCALE), context=SimpleNamespace(index=index)
    )


def attend_masked(queries: mx.array, keys: mx.array, values: mx.array, sees: mx.array) -> mx.array:
    scores = queries @ keys.swapaxes(2, 3) * SCALE
    return mx.softmax(mx.where(sees, scores, -mx.inf), axis=-1) @ values


@pytest.mark.parametrize("length", [1, 3, 5, 8])
def test_cached_attention_is_dense_attention_under_a_mask_of_groups(length: int):
    context, own = draw(1, length), draw(2, 4)
    cache = ContextCache()
    first = KeepingAttention(cache, GROUP)(*context, site())
    behind = BehindContext(cache)(*own, site())
    joined = [mx.concatenate(pair, axis=2) for pair in zip(context, own, strict=True)]
    group = mx.concatenate([mx.arange(length) // GROUP, mx.full(4, length)])
    expected = attend_masked(*joined, group[None] <= group[:, None])
    # Float32 sums in another order.
    assert mx.abs(mx.concatenate([first, behind], axis=2) - expected).max() <= 1e-6


def test_each_block_of_the_transformer_has_its_own_and_text_is_never_kept():
    cache = ContextCache()
    keep, behind = KeepingAttention(cache, GROUP), BehindContext(cache)
    own = draw(3, 4)
    alone = behind(*own, site())
    keep(*draw(1, 3), site(index=0))
    keep(*draw(2, 3), site(index=1))
    keep(*draw(4, 3), site("text", index=2))
    found = [behind(*own, site(index=index)) for index in range(3)]
    assert mx.array_equal(found[2], alone)
    assert not mx.allclose(found[0], alone)
    assert not mx.allclose(found[0], found[1])
    assert mx.array_equal(behind(*own, site("text")), alone)
    cache.clear()
    assert mx.array_equal(behind(*own, site()), alone)
    assert cache.arrays() == []
