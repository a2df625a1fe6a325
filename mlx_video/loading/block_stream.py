"""Transformer blocks that are read from a disk ahead of their turn, beside those that stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from itertools import chain, cycle
from types import TracebackType
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import QuantizationConfig
from mlx_video.errors import CheckpointError
from mlx_video.files.read_ahead import read_ahead
from mlx_video.formats.tensor_file import TensorFile
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.loading.refillable_module import Memory, RefillableModule, copy_module
from mlx_video.loading.residency import count_bytes
from mlx_video.loading.stream_plan import READ_AHEAD, SLOTS, StreamPlan, plan_stream
from mlx_video.models.block_context import Block, BlockContext
from mlx_video.models.block_order import BlockName, find_prefix, take_blocks
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.weights.load import fit_module

PrepareBlock = Callable[[BlockName, nn.Module], None]
"""Changes a block whose weights have just been read, such as by adapters."""


def load_streamed(
    transformer: VideoTransformer,
    source: TensorFile,
    order: Sequence[BlockName],
    resident_blocks: int,
    *,
    quantization: QuantizationConfig | None = None,
    prepare_block: PrepareBlock | None = None,
) -> BlockStream:
    """Load everything but the blocks into a transformer, and take these over.

    Args:
        transformer: just built. Its lists of blocks are emptied.
        source: its file; must stay open as long as the result is in use.
        order: its blocks in the order of their turns.
        resident_blocks: how many blocks stay in memory.
        quantization: what config.json says of the file; None believes the file.
        prepare_block: called for a resident block once, for a streamed one at every turn.

    Raises:
        CheckpointError: the file does not hold this transformer.
        ConfigError: as :func:`mlx_video.weights.load.load_module`.
    """
    fit_module(transformer, source, quantization=quantization)
    blocks = take_blocks(transformer, order)
    plan = plan_stream(source.infos, order, resident_blocks)
    RefillableModule(transformer, source.infos, "").fill(source, "")
    return BlockStream(blocks, source, plan, prepare_block)


class BlockStream:
    """The blocks of one transformer: some stay in memory, the others take turns in a few slots.

    A thread reads a block into a free slot while the one before computes; after the last block it goes on
    with the first of the next step, which is taken to ask for the same blocks. A slot is never allocated
    anew, and bytes go straight into it. What the system caches of the file is left to it. One walk over the
    blocks may be under way at a time; one that is broken off does no harm to the next.

    Use it as a context manager, or call `close`.

    Args:
        blocks: all of the transformer, quantized where the file is, without weights.
        source: the transformer's file.
        plan: which blocks do not stay.
        prepare_block: see :func:`load_streamed`.
    """

    shares_blocks = True

    def __init__(
        self,
        blocks: Mapping[BlockName, nn.Module],
        source: TensorFile,
        plan: StreamPlan,
        prepare_block: PrepareBlock | None = None,
    ) -> None:
        self._source = source
        self._plan = plan
        self._prepare_block = prepare_block
        streamed = {name: blocks[name] for name in plan.streamed}
        self._resident = {name: self._load(name, blocks[name]) for name in blocks if name not in streamed}
        self._slots = [_Slot(streamed, source.infos) for _ in range(SLOTS if streamed else 0)]
        self._reads: Generator[nn.Module, None, None] | None = None
        self._awaited: _Walk | None = None
        self._turn: Turn | None = None

    @property
    def bytes_per_step(self) -> int:
        """Bytes that every step reads from the file."""
        return self._plan.bytes_per_step

    @property
    def nbytes(self) -> int:
        """Bytes in memory: of the blocks that stay, and of the slots."""
        return sum(map(count_bytes, self._resident.values())) + sum(slot.nbytes for slot in self._slots)

    def blocks(self, names: Sequence[BlockName]) -> Iterator[Block]:
        """The blocks of these names, in their order; each may be used until the next is asked for.

        Raises:
            CheckpointError: a block cannot be read.
        """
        streamed = tuple(name for name in names if name not in self._resident)
        turns = iter(range(len(streamed)))
        for name in names:
            block = self._resident[name] if name in self._resident else self._take(streamed, next(turns))
            self._turn = Turn(block)
            del block
            try:
                yield self._turn
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

    def _load(self, name: BlockName, block: nn.Module) -> nn.Module:
        """Read a block that stays."""
        RefillableModule(block, self._source.infos, name.prefix).fill(self._source, name.prefix)
        if self._prepare_block:
            self._prepare_block(name, block)
        return block

    def _take(self, streamed: Sequence[BlockName], turn: int) -> nn.Module:
        """The next streamed block, ready for use."""
        if self._reads is None or self._awaited != (streamed, turn):
            self._start(streamed, turn)
        assert self._reads is not None
        try:
            block = next(self._reads)
        except BaseException:
            self._reads = None  # it has ended; another walk may begin anew
            raise
        self._awaited = streamed, (turn + 1) % len(streamed)
        if self._prepare_block:
            # What is done to the copy is forgotten with it; the slot keeps its own memory.
            block = copy_module(block)
            self._prepare_block(streamed[turn], block)
        return block

    def _start(self, streamed: Sequence[BlockName], turn: int) -> None:
        """Read from this turn on, round and round."""
        self._stop()
        order = chain(streamed[turn:], cycle(streamed))
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

    def _fill(self, turn: tuple[BlockName, _Slot]) -> nn.Module:
        """Read a block into a slot. Runs on the thread, so it touches bytes and no MLX array."""
        name, slot = turn
        try:
            return slot.fill(name, self._source)
        except CheckpointError as error:
            raise CheckpointError(f"{name} of the transformer: {error}") from error


_Walk = tuple[Sequence[BlockName], int]
"""The streamed blocks of a walk in their order, and the turn among them."""


class _Slot:
    """Memory for one block at a time, of any kind: kinds share what is alike in them.

    Args:
        blocks: that take turns, without weights.
        infos: tensors of the file.

    Raises:
        CheckpointError: a tensor is of a type that MLX does not have.
    """

    def __init__(self, blocks: Mapping[BlockName, nn.Module], infos: Mapping[str, TensorInfo]) -> None:
        memory: Memory = {}
        self._kinds = _find_kinds(blocks, infos)
        self._modules = {
            kind: RefillableModule(copy_module(blocks[name]), infos, name.prefix, memory)
            for name, kind in self._kinds.items()
            if name == kind
        }
        self.nbytes = sum(array.nbytes for array in memory.values())

    def fill(self, name: BlockName, source: TensorFile) -> nn.Module:
        """Read a block's weights; the module may be used until another block is read."""
        module = self._modules[self._kinds[name]]
        module.fill(source, name.prefix)
        return module.module

    def release(self) -> None:
        """Free the memory."""
        for module in self._modules.values():
            module.release()


def _find_kinds(
    blocks: Mapping[BlockName, nn.Module], infos: Mapping[str, TensorInfo]
) -> dict[BlockName, BlockName]:
    """Each block → the first one that is stored alike."""
    firsts: dict[Hashable, BlockName] = {}
    stored: dict[str, set[Hashable]] = {name.prefix: set() for name in blocks}
    for tensor, info in infos.items():
        prefix = find_prefix(tensor)
        if prefix in stored:
            stored[prefix].add((tensor.removeprefix(prefix), info.shape, info.dtype))
    return {name: firsts.setdefault((name.sequence, frozenset(stored[name.prefix])), name) for name in blocks}


class Turn:
    """A block whose results are computed when it returns them: afterwards its weights may change."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, x: mx.array, context: BlockContext, *others: Any) -> Any:
        """See TransformerBlock."""
        results = self.block(x, context, *others)
        mx.eval(results)  # the keys and values with them: the tokens are made from these
        return results

    def end(self) -> None:
        """Let the block go, whoever still holds this turn; a later use fails."""
        vars(self).clear()
