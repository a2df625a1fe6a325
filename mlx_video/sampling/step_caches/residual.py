"""A cache of what the blocks add to the tokens, whatever decides when it is used again."""

from __future__ import annotations

from typing import Protocol, cast

import mlx.core as mx

from mlx_video.models.block_context import BlockContext
from mlx_video.models.token_sharing import ALL_TOKENS, TokenSharing

MOST_ABSENT_STEPS = 1
KEPT_BYTES = 2  # of a number of the residual
BYTES_UNDER_WAY = 4  # of a number that entered the blocks, until they are through


class Decision(Protocol):
    """Decides in each forward of one branch whether the blocks are skipped."""

    @property
    def token_arrays(self) -> frozenset[str]:
        """See `models.block_context.StepCache`."""

    def skips(self, entering: mx.array, tokens: mx.array, context: BlockContext, *, is_forced: bool) -> bool:
        """Decide, once in every step that the branch is part of.

        Args:
            entering: [L, dim], as they enter block 0.
            tokens: [L, dim], as they enter the block before which is decided.
            context: of that block.
            is_forced: whether the blocks must run.
        """

    def state(self) -> dict[str, mx.array]:
        """What later decisions need, by names of its own; empty before the first one."""

    def restore(self, state: dict[str, mx.array]) -> None:
        """Go on from what :meth:`state` returned."""


class ResidualCache:
    """Keeps what the blocks behind the decision added last, and adds it where they are skipped.

    It is kept in bfloat16, of half the size; the sum is float32. Where the branch was no part of the steps
    before, what is kept is old, and the blocks run.

    Args:
        decision: when to skip.
        decides_after: see `models.block_context.StepCache`.
    """

    def __init__(self, decision: Decision, decides_after: int = 0) -> None:
        self.decides_after = decides_after
        self._decision = decision
        self._entering: mx.array | None = None
        self._base: mx.array | None = None
        self._residual: mx.array | None = None
        self._last_step = -1

    @property
    def token_arrays(self) -> frozenset[str]:
        """See `models.block_context.StepCache`."""
        return self._decision.token_arrays | {"residual"}

    def enter(self, tokens: mx.array) -> None:
        """See `models.block_context.StepCache`."""
        self._entering = tokens

    def reuse(self, tokens: mx.array, context: BlockContext) -> mx.array | None:
        """See `models.block_context.StepCache`."""
        assert self._entering is not None
        absent = context.step.index - self._last_step - 1
        self._last_step = context.step.index
        is_forced = self._residual is None or absent > MOST_ABSENT_STEPS
        is_skipped = self._decision.skips(self._entering, tokens, context, is_forced=is_forced)
        self._entering = None
        if not is_skipped or self._residual is None:
            self._base = tokens
            return None
        return tokens + self._residual.astype(mx.float32)

    def store(self, tokens: mx.array, context: BlockContext) -> None:
        """See `models.block_context.StepCache`."""
        assert self._base is not None
        self._residual = (tokens - self._base).astype(mx.bfloat16)
        self._base = None
        mx.eval(self._residual)  # else it holds all that it is made from

    def state(self) -> dict[str, mx.array]:
        """See `models.block_context.StepCache`."""
        if self._residual is None:
            return {}
        last = mx.array([self._last_step], mx.int32)
        return {"residual": self._residual, "last_step": last, **self._decision.state()}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See `models.block_context.StepCache`."""
        if "residual" not in state or "last_step" not in state:
            raise ValueError(f"a state with {sorted(state)} cannot be one of a cache of residuals")
        own = dict(state)
        self._residual = own.pop("residual")
        self._last_step = int(read_number(own.pop("last_step")))
        self._decision.restore(own)


def relative_change(now: mx.array, before: mx.array, sharing: TokenSharing = ALL_TOKENS) -> float:
    """Mean change of tokens, by the mean size that they had, rounded to float32.

    Args:
        now, before: [L, dim], of this process.
        sharing: which of all tokens these are.
    """
    change = sharing.mean(mx.abs(now - before)) / sharing.mean(mx.abs(before))
    return read_number(change)


def read_number(array: mx.array) -> float:
    """The number of an array that has one."""
    return cast(float, array.item())
