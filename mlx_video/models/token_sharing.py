"""Which of a forward's tokens this process computes, where several processes make one video together."""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx


class TokenSharing(Protocol):
    """A share of the tokens, and the way to those of the other processes.

    Every process makes the same calls in the same order.
    """

    def rows(self, num_tokens: int) -> slice:
        """The neighbouring tokens that are computed here, of so many.

        Raises:
            ValueError: there are fewer tokens than processes.
        """

    def join(self, rows: mx.array, num_tokens: int) -> mx.array:
        """Put the rows [m, ...] of all processes together.

        Args:
            rows: of the tokens that are computed here.
            num_tokens: L, of all processes.

        Returns:
            [L, ...], in the order of the tokens, the same bits everywhere.
        """

    def join_keys_values(
        self, queries: mx.array, keys: mx.array, values: mx.array, num_tokens: int
    ) -> tuple[mx.array, mx.array]:
        """Put keys and values of all processes together; the queries may be computed meanwhile.

        Args:
            queries, keys, values: [1, N, m, D], of the tokens that are computed here.
            num_tokens: L, of all processes.

        Returns:
            Keys and values [1, N, L, D].
        """

    def mean(self, rows: mx.array) -> mx.array:
        """The mean of all numbers of all tokens' rows [m, ...], float32, the same bits everywhere."""

    def add_heads(self, sums: mx.array) -> mx.array:
        """Sums over all heads, from those over the heads that are computed here; float32."""


class AllTokens:
    """The sharing of a process that works alone."""

    def rows(self, num_tokens: int) -> slice:
        """See :class:`TokenSharing`."""
        return slice(0, num_tokens)

    def join(self, rows: mx.array, num_tokens: int) -> mx.array:
        """See :class:`TokenSharing`."""
        return rows

    def join_keys_values(
        self, queries: mx.array, keys: mx.array, values: mx.array, num_tokens: int
    ) -> tuple[mx.array, mx.array]:
        """See :class:`TokenSharing`."""
        return keys, values

    def mean(self, rows: mx.array) -> mx.array:
        """See :class:`TokenSharing`."""
        return mx.mean(rows)

    def add_heads(self, sums: mx.array) -> mx.array:
        """See :class:`TokenSharing`."""
        return sums


ALL_TOKENS = AllTokens()
