"""One video's tokens shared out over processes: each computes its own, and attends to those of all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_video.distributed.collectives import Collectives
from mlx_video.models.block_context import BlockContext, Pass, StepCache


@dataclass(frozen=True, slots=True)
class ContextParallel:
    """The tokens of each forward, shared out evenly in runs of neighbours.

    Every process has all weights, or streams all blocks. In each block it projects its own tokens, and
    gathers keys and values of all while the queries are computed. It is a
    `models.token_sharing.TokenSharing`.

    Attributes:
        collectives: exchanges among the processes.
    """

    collectives: Collectives

    def share(self, one: Pass) -> Pass:
        """A pass of which each process computes its part; the velocity is whole in all of them.

        One whose tokens cannot be shared out is computed by all.
        """
        if not one.shares_tokens:
            return one
        cache = None if one.cache is None else SharedCache(one.cache, self)
        return replace(one, sharing=self, cache=cache)

    def rows(self, num_tokens: int) -> slice:
        """See `TokenSharing`."""
        rank, size = self.collectives.rank, self.collectives.size
        if num_tokens < size:
            raise ValueError(f"{num_tokens} tokens cannot be shared out over {size} processes")
        # The first ranks have one more where the count does not divide.
        most, longer = divmod(num_tokens, size)
        start = rank * most + min(rank, longer)
        return slice(start, start + most + (rank < longer))

    def join(self, rows: mx.array, num_tokens: int) -> mx.array:
        """See `TokenSharing`."""
        mx.eval(rows)
        joined = self._begin_join(rows, num_tokens)
        mx.eval(joined)
        return joined

    def join_keys_values(
        self, queries: mx.array, keys: mx.array, values: mx.array, num_tokens: int
    ) -> tuple[mx.array, mx.array]:
        """See `TokenSharing`."""
        both = mx.concatenate([keys, values])  # [2, N, m, D]
        joined = self._begin_join(both.transpose(2, 0, 1, 3), num_tokens)
        # The exchange is over before work that reads it is handed to a GPU, which may not wait for long.
        mx.eval(queries)
        mx.eval(joined)
        keys, values = joined.transpose(1, 2, 0, 3)
        return keys[None], values[None]

    def mean(self, rows: mx.array) -> mx.array:
        """See `TokenSharing`."""
        own = mx.stack([mx.sum(rows.astype(mx.float32)), mx.array(float(rows.size))])
        # Gathered and added in the order of ranks: the bits are the same everywhere, so are decisions.
        total, count = self.collectives.gather(own[None]).sum(axis=0)
        return total / count

    def add_heads(self, sums: mx.array) -> mx.array:
        """See `TokenSharing`: all heads are here."""
        return sums

    def _begin_join(self, rows: mx.array, num_tokens: int) -> mx.array:
        """All rows, under way; a process with one row less sends a row of zeros."""
        size = self.collectives.size
        length = -(-num_tokens // size)
        lacking = length - len(rows)
        if lacking:
            rows = mx.concatenate([rows, mx.zeros((lacking, *rows.shape[1:]), rows.dtype)])
        gathered = self.collectives.gather(rows)
        longer = num_tokens % size
        if not longer:
            return gathered
        whole = gathered[: longer * length]
        padded = gathered[longer * length :].reshape(size - longer, length, *rows.shape[1:])
        return mx.concatenate([whole, padded[:, :-1].reshape(-1, *rows.shape[1:])])


class SharedCache:
    """A step cache of which each process keeps the rows of its own tokens.

    Its state is that of all tokens: a run may go on with another number of processes.

    Args:
        cache: of this process.
        sharing: which tokens are here.
    """

    def __init__(self, cache: StepCache, sharing: ContextParallel) -> None:
        self.decides_after = cache.decides_after
        self._cache = cache
        self._sharing = sharing
        self._num_tokens = 0

    @property
    def token_arrays(self) -> frozenset[str]:
        """See `models.block_context.StepCache`."""
        return self._cache.token_arrays

    def enter(self, tokens: mx.array) -> None:
        """See `models.block_context.StepCache`."""
        self._cache.enter(tokens)

    def reuse(self, tokens: mx.array, context: BlockContext) -> mx.array | None:
        """See `models.block_context.StepCache`."""
        self._num_tokens = context.layout.num_tokens
        return self._cache.reuse(tokens, context)

    def store(self, tokens: mx.array, context: BlockContext) -> None:
        """See `models.block_context.StepCache`."""
        self._cache.store(tokens, context)

    def state(self) -> dict[str, mx.array]:
        """The state of all tokens; every process must ask for it."""
        state = self._cache.state()
        return {
            name: self._sharing.join(array, self._num_tokens) if name in self.token_arrays else array
            for name, array in sorted(state.items())
        }

    def restore(self, state: dict[str, mx.array]) -> None:
        """Go on from a state of all tokens."""
        own = dict(state)
        for name in self.token_arrays & own.keys():
            self._num_tokens = len(own[name])
            own[name] = own[name][self._sharing.rows(self._num_tokens)]
        self._cache.restore(own)
