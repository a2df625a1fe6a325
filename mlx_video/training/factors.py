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


@dataclass(frozen=True, slots=True)
class FactorKind:
    """One kind of adapters.

    Attributes:
        build: rows and columns of the layer, rank, alpha over rank, and how numbers are drawn → the module
            that is the layer's `unmerged`.
        trained: its arrays that are trained, name in the module → how the name in a ComfyUI file ends.
        zero: the one that is zero at first.
        pairs: of low-rank matrices.
    """

    build: Callable[[int, int, int, float, Draw], nn.Module]
    trained: Mapping[str, str]
    zero: str
    pairs: int = 1

    def shapes(self, rows: int, columns: int, rank: int) -> tuple[tuple[int, int], ...]:
        """Shapes of the trained arrays of a layer."""
        return ((rows, rank), (rank, columns)) * self.pairs


_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
KINDS: Mapping[NetworkKind, FactorKind] = MappingProxyType(
    {
        "lora": FactorKind(LowRankFactors, {"down": "lora_A.weight", "up": "lora_B.weight"}, "up"),
        "loha": FactorKind(HadamardFactors, {name: name for name in _HADA}, "hada_w2_a", pairs=2),
    }
)
"""By name of the network."""
