"""What headers weigh, damaged ones too: the error is for whoever reads the tensors."""

from __future__ import annotations

import pytest

from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.planning.weight_bytes import weigh


def packed(**shapes: tuple[int, ...]) -> list[TensorInfo]:
    """A layer of a block, as MLX packs it, of these parts."""
    kinds = {"weight": "U32", "scales": "BF16", "biases": "BF16"}
    return [TensorInfo(f"blocks.0.q.{part}", shape, kinds[part]) for part, shape in shapes.items()]


@pytest.mark.parametrize(("columns", "groups", "bits"), [(32, 4, 4), (64, 4, 8)])
def test_packed_layers_tell_their_bits(columns: int, groups: int, bits: int):
    weights = weigh(packed(weight=(2, columns), scales=(2, groups), biases=(2, groups)))
    assert (weights.bits, weights.blocks) == (bits, (2 * columns * 4 + 2 * 2 * groups * 2,))


@pytest.mark.parametrize(
    "shapes",
    [
        {"scales": (2, 4)},
        {"scales": (2, 4), "weight": (2, 32)},
        {"scales": (2, 0), "weight": (2, 32), "biases": (2, 0)},
        {"scales": (), "weight": (), "biases": ()},
    ],
    ids=["scales alone", "without biases", "no groups", "single numbers"],
)
def test_damaged_layers_tell_no_bits(shapes: dict[str, tuple[int, ...]]):
    assert weigh(packed(**shapes)).bits is None
