"""A forward of which this process computes some of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_video.models.block_context import Attention, AttentionSite, Block, BlockContext, BlockHook
from mlx_video.models.rope import RotaryTable
from mlx_video.models.token_layout import TokenSpan
from mlx_video.models.token_sharing import ALL_TOKENS, TokenSharing


def share_context(context: BlockContext, sharing: TokenSharing) -> BlockContext:
    """The context of the tokens of this process, which attend to those of all processes.

    Args:
        context: of all tokens.
        sharing: which of them are here.
    """
    if sharing is ALL_TOKENS:
        return context
    rows = sharing.rows(context.layout.num_tokens)
    return replace(
        context,
        time=replace(context.time, spans=_cut_spans(context.time.spans, rows)),
        rotary=RotaryTable(context.rotary.cos[rows], context.rotary.sin[rows]),
        attention=_attend_to_all(context.attention, sharing, context.layout.num_tokens),
        sharing=sharing,
        whole=context,
    )


def share_hooks(hooks: Sequence[BlockHook], sharing: TokenSharing) -> list[BlockHook]:
    """Hooks as a forward calls them: those that need all tokens are given them."""
    return [
        hook if sharing is ALL_TOKENS or hook.takes_some_tokens else _HookOfAllTokens(hook) for hook in hooks
    ]


def _cut_spans(spans: Sequence[TokenSpan], rows: slice) -> tuple[TokenSpan, ...]:
    """Spans of the tokens in `rows`, counted from the first of these."""
    cut = (
        TokenSpan(max(span.start, rows.start) - rows.start, min(span.stop, rows.stop) - rows.start, span.row)
        for span in spans
    )
    return tuple(span for span in cut if span.start < span.stop)


def _attend_to_all(attention: Attention, sharing: TokenSharing, num_tokens: int) -> Attention:
    def attend(queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
        if site.kind == "self" and not site.sees_all:
            keys, values = sharing.join_keys_values(queries, keys, values, num_tokens)
        return attention(queries, keys, values, site)

    return attend


class _HookOfAllTokens(BlockHook):
    """A hook that is given all tokens, and whose result each process takes its part of."""

    def __init__(self, hook: BlockHook) -> None:
        self._hook = hook
        self.further_blocks = hook.further_blocks

    def before_blocks(self, tokens: mx.array, context: BlockContext) -> mx.array:
        """See :meth:`BlockHook.before_blocks`."""
        if type(self._hook).before_blocks is BlockHook.before_blocks:
            return tokens
        return self._hook.before_blocks(_join(tokens, context), context.of_all_tokens())[context.rows]

    def join_block(self, block: Block, index: int) -> Block:
        """See :meth:`BlockHook.join_block`."""
        joined = self._hook.join_block(block, index)
        if joined is block:
            return block

        def run(x: mx.array, context: BlockContext, *others: Any) -> mx.array:
            return joined(_join(x, context), context.of_all_tokens(), *others)[context.rows]

        return run

    def after_block(self, tokens: mx.array, context: BlockContext) -> mx.array:
        """See :meth:`BlockHook.after_block`."""
        if type(self._hook).after_block is BlockHook.after_block:
            return tokens
        return self._hook.after_block(_join(tokens, context), context.of_all_tokens())[context.rows]

    def run_block(self, tokens: mx.array, context: BlockContext, block: Block) -> mx.array:
        """See :meth:`BlockHook.run_block`."""
        return self._hook.run_block(_join(tokens, context), context.of_all_tokens(), block)[context.rows]


def _join(tokens: mx.array, context: BlockContext) -> mx.array:
    return context.sharing.join(tokens, context.layout.num_tokens)
