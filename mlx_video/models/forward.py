"""Passes on their way through the blocks, wherever these come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.block_context import Block, BlockContext, Pass, TimeFeatures
from mlx_video.models.block_order import MAIN, BlockName, FurtherBlocks, find_blocks, order_blocks
from mlx_video.models.shared_forward import share_context, share_hooks


class BlockSource(Protocol):
    """Where the blocks come from: memory, or a disk ahead of their turn.

    Attributes:
        shares_blocks: whether all passes of a step go through a block before the next one is asked for, since
            asking is costly. Otherwise one pass after another goes through all blocks, and the activations
            of only one are in memory.
    """

    shares_blocks: bool

    def blocks(self, names: Sequence[BlockName]) -> Iterable[Block]:
        """The blocks of these names, in their order.

        A source that releases a block after its turn must yield one whose call evaluates its result. The walk
        may end early.
        """


class ResidentBlocks:
    """The block source of a transformer that is wholly in memory."""

    shares_blocks = False

    def __init__(self, transformer: nn.Module) -> None:
        self._transformer = transformer

    def blocks(self, names: Sequence[BlockName]) -> Iterable[Block]:
        """The blocks of these names, in their order."""
        return (find_blocks(self._transformer, name.sequence)[name.index] for name in names)


class Forward:
    """One pass under way.

    Args:
        one: the pass.
        tokens: all of them, [L, dim], float32, as they enter block 0.
        context: of all tokens.

    Attributes:
        tokens: of this process, [m, dim], float32, as they left the last block.
        context: for its blocks.
    """

    def __init__(self, one: Pass, tokens: mx.array, context: BlockContext) -> None:
        self._pass = one
        self.context = share_context(context, one.sharing)
        self._hooks = share_hooks(one.hooks, one.sharing)
        self.tokens = tokens[self.context.rows]
        for hook in self._hooks:
            self.tokens = hook.before_blocks(self.tokens, self.context)

    def is_reused_before(self, index: int) -> bool:
        """Let the step cache decide before block `index`, if that is where it does; true ends the pass."""
        cache = self._pass.cache
        if cache is None:
            return False
        if index == 0:
            cache.enter(self.tokens)
        if cache.decides_after != index:
            return False
        leaving = cache.reuse(self.tokens, self._cache_context(index))
        if leaving is None:
            return False
        self.tokens = leaving
        return True

    @property
    def further_blocks(self) -> list[FurtherBlocks]:
        """Blocks beside the main ones that the hooks work with."""
        return [hook.further_blocks for hook in self._hooks]

    def run(self, index: int, name: BlockName, block: Block) -> None:
        """Go through a block at its turn: main block `index` and the hooks behind it, or one of a hook."""
        context = self.context.at(index)
        if name.sequence != MAIN:
            for hook in self._hooks:
                if hook.further_blocks.get(index) == name:
                    self.tokens = hook.run_block(self.tokens, context, block)
            return
        if index not in self._pass.skip_layers:
            for hook in self._hooks:
                block = hook.join_block(block, index)
            self.tokens = block(self.tokens, context)
        for hook in self._hooks:
            self.tokens = hook.after_block(self.tokens, context)

    def finish(self) -> None:
        """Let the step cache remember what left the last block."""
        if self._pass.cache is not None:
            self._pass.cache.store(self.tokens, self._cache_context(self.context.index))

    def _cache_context(self, index: int) -> BlockContext:
        """Facts of all tokens, and the way to numbers of all processes: all must decide alike."""
        return replace(self.context.of_all_tokens(), sharing=self._pass.sharing, index=index)

    def outputs(self, head: Callable[[mx.array, TimeFeatures], mx.array]) -> mx.array:
        """What the head makes of the tokens that are part of the result.

        Args:
            head: takes tokens [m, dim] and the features of their timesteps; gives [m, patch features].

        Returns:
            [num_outputs, patch features], of all processes.
        """
        layout = self.context.layout
        patches = self._pass.sharing.join(head(self.tokens, self.context.time), layout.num_tokens)
        return layout.select_outputs(patches)


def walk_blocks(source: BlockSource, forwards: Sequence[Forward], num_layers: int) -> None:
    """Take forwards through the blocks, each block serving one after the other.

    Where step caches stand in for the blocks of all of them, no block is asked for.

    Args:
        source: the blocks.
        forwards: as they enter block 0; left with the tokens that leave the last block.
        num_layers: how many main blocks there are.
    """
    waiting = [one for one in forwards if not one.is_reused_before(0)]
    if not waiting:
        return
    order = order_blocks(num_layers, chain.from_iterable(one.further_blocks for one in waiting))
    blocks = iter(source.blocks(tuple(chain.from_iterable(order))))
    for index, names in enumerate(order):
        for name, block in zip(names, blocks, strict=False):
            for one in waiting:
                one.run(index, name, block)
        waiting = [one for one in waiting if not one.is_reused_before(index + 1)]
        if not waiting:
            return
    for one in waiting:
        one.finish()
