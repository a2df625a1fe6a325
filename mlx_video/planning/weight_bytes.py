"""How many bytes the parts of a network take, from the headers of its files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from mlx_video.config import QuantizationConfig
from mlx_video.errors import ConfigError
from mlx_video.formats.tensor_info import DTYPES, TensorInfo
from mlx_video.weights.quantize import ChooseLayer, is_quantized_layer, quantized_infos, read_quantization

_BLOCK = re.compile(r"blocks\.(\d+)\.")
Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """A network of blocks, in bytes.

    Attributes:
        blocks: of each block, in order.
        others: of everything else.
        number_bytes: of one number of a dense layer.
        bits: of the quantized layers; None for a network without any.
    """

    blocks: tuple[int, ...]
    others: int
    number_bytes: int
    bits: int | None = None

    @property
    def total(self) -> int:
        """Bytes of the whole network."""
        return sum(self.blocks) + self.others

    @property
    def largest_block(self) -> int:
        """Bytes of the largest block; 0 without blocks."""
        return max(self.blocks, default=0)


def weigh(infos: Iterable[TensorInfo]) -> WeightBytes:
    """Add up the tensors of a network.

    Args:
        infos: of its file.
    """
    tensors = {info.name: info for info in infos}
    blocks: dict[int, int] = {}
    others = 0
    for name, info in tensors.items():
        if found := _BLOCK.match(name):
            blocks[int(found[1])] = blocks.get(int(found[1]), 0) + info.nbytes
        else:
            others += info.nbytes
    floats = [DTYPES[info.dtype].size for info in tensors.values() if info.dtype in ("BF16", "F16", "F32")]
    sizes = tuple(blocks[index] for index in sorted(blocks))
    return WeightBytes(sizes, others, min(floats, default=4), _find_bits(tensors))


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
