"""Passes on their way through the blocks, wherever these come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import mlx.core as mx

from mlx_video.models.block_context import BlockContext, Pass
from mlx_video.models.token_layout import TokenLayout


class Block(Protocol):
    """A transformer block, or something that runs one."""

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """See TransformerBlock."""


class BlockSource(Protocol):
    """Where the blocks come from: memory, or a disk ahead of their turn.

    Attributes:
        shares_blocks: whether all passes of a step go through a block before the next one is asked for, since
            asking is costly. Otherwise one pass after another goes through all blocks, and the activations
            of only one are in memory.
    """

    shares_blocks: bool

    def blocks(self) -> Iterable[tuple[int, Block]]:
        """Every block with its index, in order.

        A source that releases a block after its turn must yield one whose call evaluates its result. The walk
        may end early.
        """


class ResidentBlocks:
    """The block source of a transformer that is wholly in memory."""

    shares_blocks = False

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks

    def blocks(self) -> Iterable[tuple[int, Block]]:
        """Every block with its index, in order."""
        return enumerate(self._blocks)


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

    def run(self, index: int, block: Block) -> None:
        """Go through a block, and the hooks behind it."""
        context = self.context.at(index)
        if index not in self._pass.skip_layers:
            self.tokens = block(self.tokens, context)
        for hook in self._pass.hooks:
            self.tokens = hook.after_block(self.tokens, context)

    def finish(self) -> None:
        """Let the step cache remember what left the last block."""
        if self._pass.cache is not None:
            self._pass.cache.store(self.tokens, self.context)


def walk_blocks(source: BlockSource, forwards: Sequence[Forward]) -> None:
    """Take forwards through the blocks, each block serving one after the other.

    Where step caches stand in for the blocks of all of them, no block is asked for.

    Args:
        source: the blocks.
        forwards: as they enter block 0; left with the tokens that leave the last block.
    """
    waiting = [one for one in forwards if not one.is_reused_before(0)]
    if not waiting:
        return
    for index, block in source.blocks():
        for one in waiting:
            one.run(index, block)
        waiting = [one for one in waiting if not one.is_reused_before(index + 1)]
        if not waiting:
            return
    for one in waiting:
        one.finish()
