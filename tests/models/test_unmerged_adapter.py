"""A low-rank product beside a layer: the sum of both, however the rows are cut."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.models import matmul
from mlx_video.models.matmul import project
from mlx_video.models.unmerged_adapter import UnmergedAdapter
from tests.models.networks import relative_error
from tests.parity.golden import fill

SIDE = (fill((3, 64), 1), fill((32, 3), 2), fill((3,), 3))


def build_layer(*, bias: bool = True, bits: int | None = None) -> nn.Module:
    layer = nn.Linear(64, 32, bias=bias)
    layer.weight = mx.array(fill((32, 64), 4, 0.2))
    layer = layer.to_quantized(group_size=32, bits=bits) if bits else layer
    layer.unmerged = UnmergedAdapter(*map(mx.array, SIDE))
    return layer


def expected_sum(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    weight = layer.weight
    if "scales" in layer:
        weight = mx.dequantize(weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    down, up, scale = (array.astype(np.float64) for array in SIDE)
    weight = np.array(weight, np.float64) + up @ (scale[:, None] * down)
    return x.astype(np.float64) @ weight.T + (np.array(layer.bias) if "bias" in layer else 0)


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_and_its_unmerged_adapter_add_up(bits, bias):
    layer, x = build_layer(bias=bias, bits=bits), fill((7, 64), 5)
    # 64 matmul in float32.
    assert relative_error(project(layer, mx.array(x)), expected_sum(layer, x)) <= 1e-5


def test_rows_may_be_cut_anywhere(monkeypatch):
    layer, x = build_layer(bits=4), fill((50, 64), 5)
    cut = matmul.in_chunks
    monkeypatch.setattr(matmul, "in_chunks", lambda function, x, rows: cut(function, x, 8))
    assert relative_error(project(layer, mx.array(x)), expected_sum(layer, x)) <= 1e-5


def test_an_unmerged_adapter_is_saved_and_counted_with_its_layer():
    assert set(build_layer().parameters()) == {"weight", "bias", "unmerged"}
