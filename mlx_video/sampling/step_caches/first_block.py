"""First-block cache: as long as the first block does what it did, the others are taken to do so too."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_video.models.block_context import BlockContext
from mlx_video.sampling.step_caches.residual import (
    BYTES_UNDER_WAY,
    KEPT_BYTES,
    ResidualCache,
    relative_change,
)
from mlx_video.sampling.step_caches.step_cache import (
    CacheFacts,
    CachePlan,
    is_cached,
    num_cached_passes,
    refuse_few_steps,
)

THRESHOLD = 0.05


@dataclass(frozen=True, slots=True)
class FirstBlockCache:
    """The cache as the user asks for it.

    Attributes:
        threshold: mean change of what the first block adds, by its mean size, up to which the others are
            skipped; None for 0.05.

    Source: diffusers hooks/first_block_cache.py; chengzeyi/ParaAttention.
    """

    threshold: float | None = None

    def settle(self, facts: CacheFacts) -> CachePlan:
        """See `step_cache.CacheMethod`."""
        refuse_few_steps(facts)
        threshold = THRESHOLD if self.threshold is None else self.threshold
        return CachePlan(
            setting=f"first-block, threshold {threshold:g}",
            new_cache=lambda _, branch, __: (
                ResidualCache(FirstBlockDecision(threshold), decides_after=1) if is_cached(branch) else None
            ),
            stream_bytes=2 * KEPT_BYTES * num_cached_passes(facts) + 2 * BYTES_UNDER_WAY,
        )


class FirstBlockDecision:
    """Compares what the first block adds with what it added when all blocks ran last."""

    token_arrays = frozenset({"probe"})

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._probe: mx.array | None = None

    def skips(self, entering: mx.array, tokens: mx.array, context: BlockContext, *, is_forced: bool) -> bool:
        """See `residual.Decision`."""
        probe = tokens - entering
        if not is_forced and self._probe is not None:
            change = relative_change(probe, self._probe.astype(mx.float32), context.sharing)
            if change <= self._threshold:
                return True
        self._probe = probe.astype(mx.bfloat16)  # half the size; rounds by 0.2 %, far below the threshold
        mx.eval(self._probe)
        return False

    def state(self) -> dict[str, mx.array]:
        """See `residual.Decision`."""
        return {} if self._probe is None else {"probe": self._probe}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See `residual.Decision`."""
        if [*state] != ["probe"]:
            raise ValueError(f"a state with {sorted(state)} cannot be one of the first-block cache")
        self._probe = state["probe"]
