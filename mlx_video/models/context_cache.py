"""Frames that others attend to through their keys and values, which are computed once."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mlx_video.models.block_context import AttentionSite, KeysValues, attend_plainly
from mlx_video.models.matmul import attend


class ContextCache:
    """Keys and values of context frames in the self-attention of every block of a transformer.

    Keys carry their rotary positions. All of three latent frames of 832x480 pixels in a 14B model take 3.8 GB
    in 16 bits.
    """

    def __init__(self) -> None:
        self._kept: dict[int, KeysValues] = {}

    def keep(self, index: int, keys_values: KeysValues) -> None:
        """Keep those of block `index`."""
        self._kept[index] = keys_values

    def before(self, index: int, keys: mx.array, values: mx.array) -> KeysValues:
        """Keys and values [1, N, K, D] of block `index`, those of the context in front of them."""
        if index not in self._kept:
            return KeysValues(keys, values)
        kept = self._kept[index]
        return KeysValues(
            mx.concatenate([kept.keys, keys], axis=2), mx.concatenate([kept.values, values], axis=2)
        )

    def arrays(self) -> list[mx.array]:
        """Everything that is kept."""
        return [array for kept in self._kept.values() for array in (kept.keys, kept.values)]

    def clear(self) -> None:
        """Forget the context."""
        self._kept.clear()


class KeepingAttention:
    """The attention of a forward over the context itself, which fills a cache.

    Tokens see those of their own group and of the groups before it.

    Args:
        cache: to be filled.
        group_tokens: tokens of a group; the last group may have fewer.
    """

    def __init__(self, cache: ContextCache, group_tokens: int) -> None:
        self._cache = cache
        self._group_tokens = group_tokens

    def __call__(self, queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
        """See :data:`mlx_video.models.block_context.Attention`."""
        if site.kind != "self":
            return attend_plainly(queries, keys, values, site)
        self._cache.keep(site.context.index, KeysValues(keys, values))
        groups = [
            attend(queries[:, :, start:stop], keys[:, :, :stop], values[:, :, :stop], site.layer.scale)
            for start, stop in self._groups(queries.shape[2])
        ]
        return groups[0] if len(groups) == 1 else mx.concatenate(groups, axis=2)

    def _groups(self, length: int) -> Iterator[tuple[int, int]]:
        for start in range(0, length, self._group_tokens):
            yield start, min(start + self._group_tokens, length)


class BehindContext:
    """The attention of a forward behind the context of a cache: to that, and to its own tokens.

    Args:
        cache: filled by :class:`KeepingAttention`; an empty one stands for no context.
    """

    def __init__(self, cache: ContextCache) -> None:
        self._cache = cache

    def __call__(self, queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
        """See :data:`mlx_video.models.block_context.Attention`."""
        if site.kind == "self":
            seen = self._cache.before(site.context.index, keys, values)
            keys, values = seen.keys, seen.values
        return attend_plainly(queries, keys, values, site)
