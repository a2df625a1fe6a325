"""Transformer blocks that are read from a disk ahead of their turn, beside those that stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain, cycle
from types import TracebackType
from typing import Self

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import QuantizationConfig
from mlx_video.errors import CheckpointError
from mlx_video.files.read_ahead import read_ahead
from mlx_video.formats.tensor_file import TensorFile
from mlx_video.loading.refillable_module import RefillableModule, copy_module
from mlx_video.loading.residency import count_bytes
from mlx_video.loading.stream_plan import READ_AHEAD, SLOTS, StreamPlan, block_prefix, plan_stream
from mlx_video.models.block_context import BlockContext
from mlx_video.models.forward import Block
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.weights.load import fit_module

PrepareBlock = Callable[[int, nn.Module], None]
"""Changes a block whose weights have just been read, such as by adapters; given its index."""


def load_streamed(
    transformer: VideoTransformer,
    source: TensorFile,
    resident_blocks: int,
    *,
    quantization: QuantizationConfig | None = None,
    prepare_block: PrepareBlock | None = None,
) -> BlockStream:
    """Load everything but the blocks into a transformer, and take these over.

    Args:
        transformer: just built. Its list of blocks is emptied.
        source: its file; must stay open as long as the result is in use.
        resident_blocks: how many blocks stay in memory.
        quantization: what config.json says of the file; None believes the file.
        prepare_block: called for a resident block once, for a streamed one at every turn.

    Raises:
        CheckpointError: the file does not hold this transformer, or holds its blocks in different types.
        ConfigError: as :func:`mlx_video.weights.load.load_module`.
    """
    fit_module(transformer, source, quantization=quantization)
    blocks, transformer.blocks = transformer.blocks, []
    plan = plan_stream(source.infos, len(blocks), resident_blocks)
    _check_alike(source, plan.streamed)
    RefillableModule(transformer, source.infos, "").fill(source, "")
    return BlockStream(blocks, source, plan, prepare_block)


def _check_alike(source: TensorFile, streamed: Sequence[int]) -> None:
    """Make sure that streamed blocks fit into each other's memory."""
    kinds = [
        {
            name.removeprefix(block_prefix(index)): (info.shape, info.dtype)
            for name, info in source.infos.items()
            if name.startswith(block_prefix(index))
        }
        for index in streamed
    ]
    for index, kind in zip(streamed, kinds, strict=True):
        if kind != kinds[0]:
            raise CheckpointError(
                f"{source.label}: blocks {streamed[0]} and {index} are stored in different types, so they "
                "cannot be streamed. Convert the model again, or run it with --stream off."
            )


class BlockStream:
    """The blocks of one transformer: some stay in memory, the others take turns in a few slots.

    A thread reads a block into a free slot while the one before computes; after the last block it goes on
    with the first of the next step. A slot is never allocated anew, and bytes go straight into it. What the
    system caches of the file is left to it. One walk over the blocks may be under way at a time; one that is
    broken off does no harm to the next.

    Use it as a context manager, or call `close`.

    Args:
        blocks: of the transformer, quantized where the file is, without weights.
        source: the transformer's file.
        plan: which blocks do not stay.
        prepare_block: see :func:`load_streamed`.
    """

    shares_blocks = True

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        source: TensorFile,
        plan: StreamPlan,
        prepare_block: PrepareBlock | None = None,
    ) -> None:
        self._source = source
        self._num_layers = len(blocks)
        self._plan = plan
        self._prepare_block = prepare_block
        self._resident = {i: self._load(i, block) for i, block in enumerate(blocks) if i not in plan.streamed}
        self._slots = [self._make_slot(i, blocks[i]) for i in plan.streamed[:SLOTS]]
        self._reads: Generator[_Slot, None, None] | None = None
        self._next = -1
        self._turn: _Turn | None = None

    @property
    def bytes_per_step(self) -> int:
        """Bytes that every step reads from the file."""
        return self._plan.bytes_per_step

    @property
    def nbytes(self) -> int:
        """Bytes in memory: of the blocks that stay, and of the slots."""
        modules = (*self._resident.values(), *(slot.module for slot in self._slots))
        return sum(map(count_bytes, modules))

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Every block with its index, in order; each may be used until the next is asked for.

        Raises:
            CheckpointError: a block cannot be read.
        """
        for index in range(self._num_layers):
            block = self._resident[index] if index in self._resident else self._take(index)
            self._turn = _Turn(block)
            del block
            try:
                yield index, self._turn
            finally:
                self._end_turn()

    def rest(self) -> None:
        """End the reading until the next walk; a read that has begun is waited for."""
        self._stop()
        self._end_turn()

    def close(self) -> None:
        """End the reading and free every block; a read that has begun is waited for."""
        self.rest()
        for slot in self._slots:
            slot.release()
        for block in self._resident.values():
            block.clear()
        self._slots.clear()
        self._resident.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_slot(self, index: int, block: nn.Module) -> _Slot:
        return RefillableModule(block, self._source.infos, block_prefix(index))

    def _load(self, index: int, block: nn.Module) -> nn.Module:
        """Read a block that stays."""
        self._make_slot(index, block).fill(self._source, block_prefix(index))
        if self._prepare_block:
            self._prepare_block(index, block)
        return block

    def _take(self, index: int) -> nn.Module:
        """The next streamed block, ready for use."""
        if self._reads is None or index != self._next:
            self._start(index)
        assert self._reads is not None
        try:
            block = next(self._reads).module
        except BaseException:
            self._reads = None  # it has ended; another walk may begin anew
            raise
        streamed = self._plan.streamed
        self._next = streamed[(streamed.index(index) + 1) % len(streamed)]
        if self._prepare_block:
            # What is done to the copy is forgotten with it; the slot keeps its own memory.
            block = copy_module(block)
            self._prepare_block(index, block)
        return block

    def _start(self, index: int) -> None:
        """Read from this block on, round and round."""
        self._stop()
        streamed = self._plan.streamed
        order = chain(streamed[streamed.index(index) :], cycle(streamed))
        turns = zip(order, cycle(self._slots), strict=False)
        self._reads = read_ahead(turns, self._fill, READ_AHEAD)

    def _stop(self) -> None:
        if self._reads is not None:
            self._reads.close()
            self._reads = None

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def _fill(self, turn: tuple[int, _Slot]) -> _Slot:
        """Read a block into a slot. Runs on the thread, so it touches bytes and no MLX array."""
        index, slot = turn
        try:
            slot.fill(self._source, block_prefix(index))
        except CheckpointError as error:
            raise CheckpointError(f"block {index} of the transformer: {error}") from error
        return slot


_Slot = RefillableModule[nn.Module]


class _Turn:
    """A block whose results are computed when it returns them: afterwards its weights may change."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """See TransformerBlock."""
        tokens = self.block(x, context)
        mx.eval(tokens)  # the keys and values with them: the tokens are made from these
        return tokens

    def end(self) -> None:
        """Let the block go, whoever still holds this turn; a later use fails."""
        vars(self).clear()
