"""Keys and values of clean frames, computed once for all steps of a run."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.models.block_context import Attention, AttentionSite, KeysValues


class RememberedKeys:
    """What every block's self-attention made of frames that stand before those of a forward.

    They carry their rotary positions: the frames keep theirs from step to step.
    """

    def __init__(self) -> None:
        self._kept: dict[int, KeysValues] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(one.keys.nbytes + one.values.nbytes for one in self._kept.values())

    def evaluate(self) -> None:
        """Compute what a forward under :meth:`recording` noted, before its network may be gone."""
        mx.eval([array for one in self._kept.values() for array in (one.keys, one.values)])

    def recording(self, attention: Attention) -> Attention:
        """A way to attend that notes the keys and values of self-attention, for a forward of those frames."""

        def attend(queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
            if site.kind == "self":
                self._kept[site.context.index] = KeysValues(keys, values)
            return attention(queries, keys, values, site)

        return attend

    def before(self, attention: Attention) -> Attention:
        """A way to attend in which the noted keys and values stand before those of the forward."""

        def attend(queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
            if site.kind == "self":
                kept = self._kept[site.context.index]
                keys = mx.concatenate([kept.keys, keys], axis=2)
                values = mx.concatenate([kept.values, values], axis=2)
            return attention(queries, keys, values, site)

        return attend
