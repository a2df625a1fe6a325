"""Which part of each tensor of a transformer is one process's, and a file of which only that part is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path

import mlx.core as mx

from mlx_video.config import TransformerConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import DTYPES, TensorInfo, TensorSource, TensorView

TILE = 64
"""Channels of the feed-forward that stay together where they can: kernels work on so many at a time."""

_PARTS = re.compile(
    r".+\.(?P<of>self_attn|cross_attn|ffn)\."
    r"(?:(?P<outputs>q|k|v|k_img|v_img|norm_q|norm_k|norm_k_img|fc1)|(?P<inputs>o|fc2))"
    r"\.(?P<leaf>weight|bias|scales|biases)"
)


def share_evenly(count: int, rank: int, size: int, unit: int = 1) -> range:
    """The part of range(count) that is one process's, in whole units; the first ranks have the longer ones.

    Args:
        count: a multiple of `unit`.
        rank, size: of the process.
        unit: what stays together.
    """
    fewest, longer = divmod(count // unit, size)
    start = rank * fewest + min(rank, longer)
    return range(start * unit, (start + fewest + (rank < longer)) * unit)


@dataclass(frozen=True, slots=True)
class BlockShare:
    """The channels of a transformer's blocks that are one process's.

    Attributes:
        rank: of the process.
        heads: numbers of its attention heads.
        channels: of all heads, those of these.
        hidden: its channels of the feed-forward.
        num_heads, dim, ffn_dim: of all processes.
    """

    rank: int
    heads: range
    hidden: range
    num_heads: int
    dim: int
    ffn_dim: int

    @property
    def channels(self) -> range:
        """Channels of the heads."""
        head_dim = self.dim // self.num_heads
        return range(self.heads.start * head_dim, self.heads.stop * head_dim)

    def of_parameter(self, name: str) -> TensorShare | None:
        """The part of a dense parameter that is this process's; None for all of it."""
        found = _PARTS.fullmatch(name)
        if found is None:
            return None
        is_hidden = found["of"] == "ffn"
        part, width = (self.hidden, self.ffn_dim) if is_hidden else (self.channels, self.dim)
        if found["outputs"]:
            return TensorShare(0, width, part)
        if found["leaf"] == "bias":
            # Added once to the sum of all: by the first process.
            return TensorShare(0, self.dim, None) if self.rank else None
        return TensorShare(1, width, part)

    def of_tensor(self, info: TensorInfo) -> TensorShare | None:
        """The part of a stored tensor, which may be packed, that is this process's; None for all of it.

        Raises:
            CheckpointError: the tensor cannot be cut there.
        """
        share = self.of_parameter(info.name)
        if share is None or share.part is None or share.axis == 0:
            return share
        return replace(share, part=_cut_columns(info, share.part, share.width))


@dataclass(frozen=True, slots=True)
class TensorShare:
    """Part of a tensor.

    Attributes:
        axis: 0 for some of its rows, 1 for some of its columns.
        width: of the whole parameter along this axis.
        part: which; None for as many zeros as the tensor has numbers.
    """

    axis: int
    width: int
    part: range | None

    def shape(self, info: TensorInfo) -> tuple[int, ...]:
        """Shape of the part."""
        if self.part is None:
            return info.shape
        return (*info.shape[: self.axis], len(self.part), *info.shape[self.axis + 1 :])


def share_blocks(
    config: TransformerConfig, rank: int, size: int, group_size: int | None = None
) -> BlockShare:
    """The heads and the channels of the feed-forward that are one process's.

    Args:
        config: of the transformer.
        rank, size: of the process.
        group_size: of quantized layers, whose groups are not cut; None for dense ones.

    Raises:
        ValueError: there are fewer heads, or fewer groups of channels, than processes, or the blocks are not
            Wan's.
    """
    if config.time_dim is not None:
        raise ValueError("blocks whose queries, keys and values are one layer cannot be shared out by heads")
    unit = max(gcd(config.ffn_dim, TILE), group_size or 1)
    heads = share_evenly(config.num_heads, rank, size)
    hidden = share_evenly(config.ffn_dim, rank, size, unit)
    if min(config.num_heads, config.ffn_dim // unit) < size:
        raise ValueError(
            f"{config.num_heads} heads and {config.ffn_dim // unit} groups of channels cannot be shared out "
            f"over {size} processes"
        )
    return BlockShare(rank, heads, hidden, config.num_heads, config.dim, config.ffn_dim)


def find_group_size(config: TransformerConfig, infos: Mapping[str, TensorInfo]) -> int | None:
    """The size of the groups in which feed-forwards are quantized; None where they are dense."""
    sizes = [
        config.ffn_dim // info.shape[1] for name, info in infos.items() if name.endswith("ffn.fc2.scales")
    ]
    return max(sizes, default=None)


def _cut_columns(info: TensorInfo, part: range, width: int) -> range:
    """Columns of a tensor, packed or not, that stand for a part of a layer's `width` inputs."""
    columns = info.shape[1]
    ends = [end * columns for end in (part.start, part.stop)]
    if any(end % width for end in ends):
        raise CheckpointError(
            f"{info.name}: its {columns} columns cannot be cut at inputs {part.start} and {part.stop} of "
            f"{width}. Quantize in smaller groups, or share out tokens instead."
        )
    return range(ends[0] // width, ends[1] // width)


class SharedTensors(TensorView):
    """A `TensorSource` of one process's parts of a transformer's tensors.

    Args:
        source: the transformer's file; closed with this one.
        share: which channels.

    Attributes:
        share: as given.

    Raises:
        CheckpointError: a tensor cannot be cut.
    """

    def __init__(self, source: TensorSource, share: BlockShare) -> None:
        super().__init__(source)
        self.share = share
        self._source = source
        self._shares = {name: part for name, info in source.infos.items() if (part := share.of_tensor(info))}
        self.infos: Mapping[str, TensorInfo] = {
            name: replace(info, shape=self._shares[name].shape(info)) if name in self._shares else info
            for name, info in source.infos.items()
        }

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._source.file_of(name)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read this process's part of a tensor, or rows of it."""
        own = self._shares.get(name)
        if own is None:
            return self._source.read(name, rows)
        first, last, _ = (rows or slice(None)).indices(self.infos[name].shape[0])
        if own.part is None:
            return mx.zeros((last - first,), DTYPES[self.infos[name].dtype].mlx or mx.float32)
        if own.axis == 0:
            return self._source.read(name, slice(own.part.start + first, own.part.start + last))
        part = self._source.read(name, rows)[:, own.part.start : own.part.stop]
        # contiguous: a view would keep the whole tensor in memory.
        return mx.contiguous(part)
