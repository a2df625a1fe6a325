"""Passes on their way through the blocks, wherever these come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.block_context import Block, BlockContext, Pass
from mlx_video.models.block_order import MAIN, BlockName, FurtherBlocks, find_blocks, order_blocks
from mlx_video.models.token_layout import TokenLayout


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

    Attributes:
        tokens: [L, dim], float32, as they left the last block.
        context: for its blocks.
    """

    def __init__(self, one: Pass, tokens: mx.array, context: BlockContext) -> None:
        self.context = context
        self._pass = one
        self.tokens = tokens
        for hook in one.hooks:
            self.tokens = hook.before_blocks(self.tokens, context)

    @property
    def layout(self) -> TokenLayout:
        """Layout of the tokens."""
        return self.context.layout

    def is_reused_before(self, index: int) -> bool:
        """Let the step cache decide before block `index`, if that is where it does; true ends the pass."""
        cache = self._pass.cache
        if cache is None:
            return False
        if index == 0:
            cache.enter(self.tokens)
        if cache.decides_after != index:
            return False
        leaving = cache.reuse(self.tokens, self.context.at(index))
        if leaving is None:
            return False
        self.tokens = leaving
        return True

    @property
    def further_blocks(self) -> list[FurtherBlocks]:
        """Blocks beside the main ones that the hooks work with."""
        return [hook.further_blocks for hook in self._pass.hooks]

    def run(self, index: int, name: BlockName, block: Block) -> None:
        """Go through a block at its turn: main block `index` and the hooks behind it, or one of a hook."""
        context = self.context.at(index)
        if name.sequence != MAIN:
            for hook in self._pass.hooks:
                if hook.further_blocks.get(index) == name:
                    self.tokens = hook.run_block(self.tokens, context, block)
            return
        if index not in self._pass.skip_layers:
            for hook in self._pass.hooks:
                block = hook.join_block(block, index)
            self.tokens = block(self.tokens, context)
        for hook in self._pass.hooks:
            self.tokens = hook.after_block(self.tokens, context)

    def finish(self) -> None:
        """Let the step cache remember what left the last block."""
        if self._pass.cache is not None:
            self._pass.cache.store(self.tokens, self.context)


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
