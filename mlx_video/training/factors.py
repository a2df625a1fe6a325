"""Trainable adapters of linear layers: few numbers whose change of a weight runs beside the layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.unmerged_adapter import UnmergedAdapter
from mlx_video.request.train import NetworkKind

Draw = Callable[[tuple[int, ...]], mx.array]
"""Shape → uniform numbers from -1 to 1."""


class LowRankFactors(UnmergedAdapter):
    """LoRA: up · down · scale.

    Source: arXiv 2106.09685; the numbers at the beginning are those of torch's linear layers, as in PEFT.
    """

    def __init__(self, rows: int, columns: int, rank: int, scale: float, draw: Draw) -> None:
        super().__init__(
            draw((rank, columns)) / math.sqrt(columns), mx.zeros((rows, rank)), mx.full((rank,), scale)
        )


class HadamardFactors(nn.Module):
    """LoHa: the elementwise product of two low-rank matrices, times scale.

    Source: LyCORIS lycoris/modules/loha.py, LohaModule.
    """

    def __init__(self, rows: int, columns: int, rank: int, scale: float, draw: Draw) -> None:
        super().__init__()
        self.scale = mx.array(scale)
        # LyCORIS draws normal numbers of these deviations; a uniform number's is a root of 3 less.
        self.hada_w1_a = draw((rows, rank)) * 0.1 * math.sqrt(3)
        self.hada_w1_b = draw((rank, columns)) * math.sqrt(3)
        self.hada_w2_a = mx.zeros((rows, rank))
        self.hada_w2_b = draw((rank, columns)) * math.sqrt(3)

    def __call__(self, x: mx.array, y: mx.array) -> mx.array:
        """Add the product; see :class:`UnmergedAdapter`."""
        change = (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b) * self.scale
        return mx.addmm(y, x, change.astype(x.dtype).T)


class KroneckerFactors(nn.Module):
    """LoKr: the Kronecker product of a small matrix and a low-rank one, times scale.

    Source: LyCORIS lycoris/modules/lokr.py, LokrModule, as it decomposes the larger matrix alone.
    """

    def __init__(self, rows: int, columns: int, rank: int, scale: float, draw: Draw) -> None:
        super().__init__()
        first, left, right = _kronecker_shapes(rows, columns, rank)
        self.scale = mx.array(scale)
        self.lokr_w1 = draw(first) / math.sqrt(first[1])
        self.lokr_w2_a = draw(left) / math.sqrt(rank)
        self.lokr_w2_b = mx.zeros(right)

    def __call__(self, x: mx.array, y: mx.array) -> mx.array:
        """Add the product; see :class:`UnmergedAdapter`."""
        first, second = self.lokr_w1, self.lokr_w2_a @ self.lokr_w2_b
        blocks = first[:, None, :, None] * second[None, :, None, :]
        change = blocks.reshape(first.shape[0] * second.shape[0], -1) * self.scale
        return mx.addmm(y, x, change.astype(x.dtype).T)


Shapes = tuple[tuple[int, int], ...]


def _pair_shapes(rows: int, columns: int, rank: int) -> Shapes:
    return (rows, rank), (rank, columns)


def _kronecker_shapes(rows: int, columns: int, rank: int) -> Shapes:
    """Of the small matrix, and of the two whose product is the large one."""
    (few_rows, many_rows), (few_columns, many_columns) = _split_evenly(rows), _split_evenly(columns)
    return (few_rows, few_columns), (many_rows, rank), (rank, many_columns)


def _split_evenly(number: int) -> tuple[int, int]:
    """The two factors of a number that are nearest to each other, the smaller one first.

    Source: LyCORIS lycoris/functional/general.py, factorization, with factor -1.
    """
    small = next(each for each in range(math.isqrt(number), 0, -1) if number % each == 0)
    return small, number // small


@dataclass(frozen=True, slots=True)
class FactorKind:
    """One kind of adapters.

    Attributes:
        build: rows and columns of the layer, rank, alpha over rank, and how numbers are drawn → the module
            that is the layer's `unmerged`.
        trained: its arrays that are trained, name in the module → how the name in a ComfyUI file ends.
        zero: the one that is zero at first.
        shapes: rows and columns of the layer, and rank → shapes of the trained arrays.
        is_whole: whether the change of a weight is computed as a whole.
    """

    build: Callable[[int, int, int, float, Draw], nn.Module]
    trained: Mapping[str, str]
    zero: str
    shapes: Callable[[int, int, int], Shapes]
    is_whole: bool = True


_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOKR = ("lokr_w1", "lokr_w2_a", "lokr_w2_b")
KINDS: Mapping[NetworkKind, FactorKind] = MappingProxyType(
    {
        "lora": FactorKind(
            LowRankFactors, {"down": "lora_A.weight", "up": "lora_B.weight"}, "up", _pair_shapes, False
        ),
        "loha": FactorKind(
            HadamardFactors,
            {name: name for name in _HADA},
            "hada_w2_a",
            lambda *sizes: _pair_shapes(*sizes) * 2,
        ),
        "lokr": FactorKind(KroneckerFactors, {name: name for name in _LOKR}, "lokr_w2_b", _kronecker_shapes),
    }
)
"""By name of the network."""
