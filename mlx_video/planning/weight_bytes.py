"""How many bytes the parts of a network take, from the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mlx_video.config import QuantizationConfig
from mlx_video.errors import ConfigError
from mlx_video.formats.tensor_info import DTYPES, TensorInfo
from mlx_video.models.block_order import MAIN, BlockName, find_prefix
from mlx_video.weights.quantize import ChooseLayer, is_quantized_layer, quantized_infos, read_quantization

Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """A network of blocks, in bytes.

    Attributes:
        blocks: of each block, in the order of the turns.
        others: of everything else.
        number_bytes: of one number of a dense layer.
        bits: of the quantized layers; None for a network without any.
        slot_bytes: of memory that takes a block of every kind, one at a time.
    """

    blocks: tuple[int, ...]
    others: int
    number_bytes: int
    bits: int | None = None
    slot_bytes: int = 0

    @property
    def total(self) -> int:
        """Bytes of the whole network."""
        return sum(self.blocks) + self.others

    @property
    def largest_block(self) -> int:
        """Bytes of the largest block; 0 without blocks."""
        return max(self.blocks, default=0)


def weigh(infos: Iterable[TensorInfo], order: Sequence[BlockName] = ()) -> WeightBytes:
    """Add up the tensors of a network.

    Args:
        infos: of its file.
        order: its blocks in the order of their turns; without it, those that the main sequence has.
    """
    tensors = {info.name: info for info in infos}
    prefixes = [find_prefix(name) for name in tensors]
    blocks = dict.fromkeys((name.prefix for name in order or _main_blocks(prefixes)), 0)
    others = 0
    slot: dict[Hashable, int] = {}
    for (name, info), prefix in zip(tensors.items(), prefixes, strict=True):
        if prefix in blocks:
            blocks[prefix] += info.nbytes
            slot[name.removeprefix(prefix), info.shape, info.dtype] = info.nbytes
        else:
            others += info.nbytes
    floats = [DTYPES[info.dtype].size for info in tensors.values() if info.dtype in ("BF16", "F16", "F32")]
    return WeightBytes(
        tuple(blocks.values()), others, min(floats, default=4), _find_bits(tensors), sum(slot.values())
    )


def _main_blocks(prefixes: Iterable[str]) -> list[BlockName]:
    own = {prefix.split(".")[1] for prefix in prefixes if prefix.startswith(f"{MAIN}.")}
    return [BlockName(MAIN, index) for index in sorted(map(int, own))]


def _find_bits(tensors: Infos) -> int | None:
    for path in (name.removesuffix(".scales") for name in tensors if name.endswith(".scales")):
        # Every published layer has groups of 32, 64 or 128 inputs; the packed width tells the bits.
        for group_size in (64, 32, 128):
            columns = math.prod(tensors[f"{path}.scales"].shape[-1:]) * group_size
            with suppress(ConfigError):  # another group size, or a damaged layer, which loading refuses
                if (bits := read_quantization(path, columns, tensors).bits) in (4, 8):
                    return bits
    return None


def quantized(
    infos: Iterable[TensorInfo],
    quantization: QuantizationConfig,
    is_quantized: ChooseLayer = is_quantized_layer,
) -> list[TensorInfo]:
    """What a dense network's file would hold if it were converted with `quantization`.

    Args:
        infos: of the dense file.
        quantization: of some layers.
        is_quantized: which layers these are.
    """
    result: list[TensorInfo] = []
    for info in infos:
        path = info.name.removesuffix(".weight")
        if info.name.endswith(".weight") and is_quantized(path):
            result += quantized_infos(path, (info.shape[0], info.shape[1]), info.dtype, quantization)
        else:
            result.append(info)
    return result
