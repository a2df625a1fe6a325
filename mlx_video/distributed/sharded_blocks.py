"""Blocks of whose weights each process keeps a part, and gathers the rest ahead of their turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_video.config import QuantizationConfig
from mlx_video.distributed.collectives import Collectives
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.loading.block_stream import PrepareBlock, Turn
from mlx_video.loading.refillable_module import copy_module
from mlx_video.loading.stream_plan import SLOTS
from mlx_video.models.block_context import Block
from mlx_video.models.block_order import BlockName, take_blocks
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.weights.load import fit_module

ALIGNMENT = 256
"""Bytes that a tensor begins at a multiple of: GPUs read no array that begins anywhere."""


def load_sharded(
    transformer: VideoTransformer,
    source: TensorSource,
    order: Sequence[BlockName],
    collectives: Collectives,
    *,
    quantization: QuantizationConfig | None = None,
    prepare_block: PrepareBlock | None = None,
) -> ShardedBlocks:
    """Load everything but the blocks into a transformer, and this process's part of each block.

    Args:
        transformer: just built. Its lists of blocks are emptied.
        source: its file; may be closed afterwards.
        order: its blocks in the order of their turns.
        collectives: exchanges among the processes.
        quantization: what config.json says of the file; None believes the file.
        prepare_block: called for a block at every turn.

    Raises:
        CheckpointError: the file does not hold this transformer.
        ConfigError: as :func:`mlx_video.weights.load.load_module`.
    """
    fit_module(transformer, source, quantization=quantization)
    blocks = take_blocks(transformer, order)
    transformer.update(tree_unflatten(list(_read(transformer, source, "").items())))
    mx.eval(transformer.parameters())
    shards = {}
    for name, block in blocks.items():
        arrays = _read(block, source, name.prefix)
        layout = PackedLayout.of(arrays, collectives.size)
        shards[name] = _Shard(block, layout, layout.pack_part(arrays, collectives.rank))
        mx.eval(shards[name].part)  # one block after the other is read
    return ShardedBlocks(shards, collectives, prepare_block)


def _read(module: nn.Module, source: TensorSource, prefix: str) -> dict[str, mx.array]:
    """Arrays of the parameters of a module, as the file has them."""
    parameters: list[tuple[str, mx.array]] = tree_flatten(module.parameters())  # type: ignore[assignment]
    return {name: source.read(prefix + name).reshape(old.shape) for name, old in parameters}


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """Where a tensor lies in the bytes of its block."""

    start: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: mx.Dtype


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """The tensors of a block behind each other, as bytes that are cut into even parts.

    Attributes:
        tensors: name → place.
        part_bytes: of each part.
    """

    tensors: Mapping[str, PackedTensor]
    part_bytes: int

    @classmethod
    def of(cls, arrays: Mapping[str, mx.array], size: int) -> Self:
        """The layout of arrays in so many parts."""
        tensors, end = {}, 0
        for name, array in arrays.items():
            tensors[name] = PackedTensor(end, array.nbytes, array.shape, array.dtype)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return cls(tensors, -(-end // size))

    def pack_part(self, arrays: Mapping[str, mx.array], rank: int) -> mx.array:
        """The part of a process, [part_bytes], uint8."""
        first, packed = rank * self.part_bytes, np.zeros(self.part_bytes, np.uint8)
        for name, tensor in self.tensors.items():
            start, stop = max(tensor.start, first), min(tensor.start + tensor.nbytes, first + self.part_bytes)
            if start < stop:
                found = np.array(arrays[name].reshape(-1).view(mx.uint8))
                packed[start - first : stop - first] = found[start - tensor.start : stop - tensor.start]
        return mx.array(packed)

    def unpack(self, packed: mx.array) -> dict[str, mx.array]:
        """The arrays, in the memory of all parts behind each other."""
        return {
            name: packed[each.start : each.start + each.nbytes].view(each.dtype).reshape(each.shape)
            for name, each in self.tensors.items()
        }


@dataclass(frozen=True, slots=True)
class _Shard:
    """A block without weights, and this process's part of these."""

    block: nn.Module
    layout: PackedLayout
    part: mx.array


class ShardedBlocks:
    """The blocks of one transformer, each gathered from all processes while the one before computes.

    A block source: every process must walk over the same blocks. Two blocks are in memory besides the parts.
    Use it as a context manager, or call `close`.

    Args:
        shards: of all blocks.
        collectives: exchanges among the processes.
        prepare_block: see :func:`load_sharded`.
    """

    shares_blocks = True

    def __init__(
        self,
        shards: Mapping[BlockName, _Shard],
        collectives: Collectives,
        prepare_block: PrepareBlock | None = None,
    ) -> None:
        self._shards = dict(shards)
        self._collectives = collectives
        self._prepare_block = prepare_block

    @property
    def nbytes(self) -> int:
        """Bytes in memory: of the parts, and of the block in use and the one that comes."""
        parts = [shard.part.nbytes for shard in self._shards.values()]
        return sum(parts) + SLOTS * self._collectives.size * max(parts, default=0)

    def blocks(self, names: Sequence[BlockName]) -> Iterator[Block]:
        """The blocks of these names, in their order; each may be used until the next is asked for."""
        coming: mx.array | None = None
        try:
            for name, following in zip(names, (*names[1:], None), strict=True):
                gathered = self._begin(name) if coming is None else coming
                # Here before its block is handed to a GPU, which may not wait for long.
                mx.eval(gathered)
                coming = None if following is None else self._begin(following)
                turn = Turn(self._build(name, gathered))
                del gathered
                try:
                    yield turn
                finally:
                    turn.end()
        finally:
            if coming is not None:
                # Whatever is exchanged next must find the way free.
                mx.eval(coming)

    def rest(self) -> None:
        """See `loading.block_stream.BlockStream.rest`: nothing is gathered between two walks."""

    def close(self) -> None:
        """Free every block."""
        self._shards.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, name: BlockName) -> mx.array:
        """All parts of a block, under way."""
        return self._collectives.gather(self._shards[name].part)

    def _build(self, name: BlockName, gathered: mx.array) -> nn.Module:
        shard = self._shards[name]
        block = copy_module(shard.block)
        block.update(tree_unflatten(list(shard.layout.unpack(gathered).items())))
        if self._prepare_block:
            self._prepare_block(name, block)
        return block
