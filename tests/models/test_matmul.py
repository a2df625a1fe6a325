"""Linear layers and attention, whole and in chunks."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.models import matmul
from mlx_video.models.dispatch import Limits, use_limits
from mlx_video.models.elementwise import on_gpu
from mlx_video.models.matmul import (
    attend,
    attend_biased,
    compute_dtype,
    in_chunks,
    merge_heads,
    project,
    split_heads,
)
from tests.models.networks import run_gpu_code


@pytest.fixture(params=["this device", "gpu"])
def device(request, monkeypatch):
    if request.param == "gpu":
        run_gpu_code(monkeypatch)


@pytest.fixture
def gpu(monkeypatch):
    run_gpu_code(monkeypatch)


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 1))
def test_chunks_are_even_and_cover_everything_once(length, rows, axis):
    x = mx.arange(3 * length).reshape((length, 3) if axis == 0 else (3, length))
    sizes = []

    def double(part: mx.array) -> mx.array:
        sizes.append(part.shape[axis])
        return 2 * part

    assert mx.array_equal(in_chunks(double, x, rows, axis), 2 * x).item()
    assert sum(sizes) == length
    assert max(sizes) <= rows
    assert len(sizes) <= -(-length // rows)


@pytest.mark.usefixtures("gpu")
def test_a_quantized_product_beyond_the_row_limit_is_split(monkeypatch):
    layer = nn.Linear(64, 32).to_quantized(group_size=32, bits=4)
    x = normal(50, 64)
    whole = project(layer, x)
    seen = []
    call = nn.QuantizedLinear.__call__
    monkeypatch.setattr(
        nn.QuantizedLinear, "__call__", lambda self, x: (seen.append(x.shape[0]), call(self, x))[1]
    )
    with use_limits(Limits(quantized_rows=16)):
        np.testing.assert_allclose(np.array(project(layer, x)), np.array(whole), rtol=1e-6, atol=1e-6)
    assert len(seen) == 4
    assert max(seen) <= 16


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_can_be_unpacked_where_their_products_are_faulty(monkeypatch, bits):
    layer = nn.Linear(64, 32).to_quantized(group_size=32, bits=bits)
    layer.bias = layer.bias.astype(mx.float32)
    whole = project(layer, normal(50, 64))
    monkeypatch.setattr(nn.QuantizedLinear, "__call__", lambda self, x: mx.zeros((x.shape[0], 32)))
    with use_limits(Limits(quantized_matmul=False)):
        found = project(layer, normal(50, 64))
    # The same numbers multiplied, added in another order.
    np.testing.assert_allclose(np.array(found), np.array(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("gpu")
def test_weights_are_unpacked_for_many_rows_of_the_packings_that_gain_by_it(monkeypatch):
    monkeypatch.setattr(matmul, "UNPACKED_ROWS", 40)
    layer = nn.Linear(64, 32).to_quantized(group_size=32, bits=4)
    calls = []
    monkeypatch.setattr(
        nn.QuantizedLinear, "__call__", lambda self, x: calls.append(len(x)) or mx.zeros((1,))
    )
    for unpacked, rows, is_packed in [
        (set(), 50, True), ({"4 bits by 32"}, 39, True), ({"4 bits by 64", "8 bits by 32"}, 50, True),
        ({"4 bits by 32"}, 40, False),
    ]:  # fmt: skip
        calls.clear()
        with use_limits(Limits(unpacked=frozenset(unpacked))):
            project(layer, normal(rows, 64))
        assert bool(calls) is is_packed


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_products_on_a_gpu_run_in_the_type_of_the_weights(dtype):
    dense = nn.Linear(64, 32)
    dense.set_dtype(dtype)
    packed = dense.to_quantized(group_size=32, bits=8)
    for layer in (dense, packed):
        assert compute_dtype(layer) == dtype
        assert project(layer, normal(3, 64)).dtype == dtype


@pytest.mark.skipif(on_gpu(), reason="what a CPU does")
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_products_on_a_cpu_run_in_float32_whatever_the_weights(bits):
    layer = nn.Linear(64, 32)
    layer.set_dtype(mx.bfloat16)
    layer = layer.to_quantized(group_size=32, bits=bits) if bits else layer
    assert compute_dtype(layer) == mx.float32
    assert_float32_product(layer, project(layer, normal(3, 64)))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_asked_for_in_float32_widens_its_weight(has_bias):
    layer = nn.Linear(64, 32, bias=has_bias)
    layer.set_dtype(mx.bfloat16)
    assert_float32_product(layer, project(layer, normal(3, 64), mx.float32))


def assert_float32_product(layer: nn.Module, found: mx.array) -> None:
    weight = layer.weight
    if "scales" in layer:
        weight = mx.dequantize(weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    expected = np.array(normal(3, 64), np.float64) @ np.array(weight.astype(mx.float32), np.float64).T
    expected += np.array(layer.bias.astype(mx.float32)) if "bias" in layer else 0
    assert found.dtype == mx.float32
    # 64 float32 products of the very numbers that are stored.
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-6)


def test_a_wrapped_layer_is_called_and_not_taken_apart():
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner
            self.weight = inner.weight

        def __call__(self, x: mx.array) -> mx.array:
            return 2 * self.inner(x)

    layer = nn.Linear(64, 32)
    assert mx.array_equal(project(Doubled(layer), normal(3, 64)), 2 * layer(normal(3, 64))).item()


def exact_attention(queries, keys, values, scale):
    scores = np.einsum("bnld,bnkd->bnlk", queries, keys) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bnlk,bnkd->bnld", weights / weights.sum(-1, keepdims=True), values)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("size", [1.0, 40.0])
def test_attention_is_exact_also_for_large_scores(size):
    queries, keys, values = (
        normal(1, 2, 30, 16) * size,
        normal(1, 2, 21, 16, seed=1),
        normal(1, 2, 21, 16, seed=2),
    )
    expected = exact_attention(*(np.array(x, np.float64) for x in (queries, keys, values)), 0.25)
    # Scores near 150 carry a float32 rounding of 1e-5, and so do their exponentials.
    np.testing.assert_allclose(np.array(attend(queries, keys, values, 0.25)), expected, atol=2e-6 * size)


def test_attention_agrees_with_the_fused_operation():
    queries, keys, values = normal(1, 2, 30, 16), normal(1, 2, 21, 16, seed=1), normal(1, 2, 21, 16, seed=2)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.25)
    np.testing.assert_allclose(np.array(attend(queries, keys, values, 0.25)), np.array(expected), atol=2e-6)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_attention_can_be_written_out_where_the_fused_one_is_faulty(monkeypatch, dtype):
    queries, keys, values = (normal(1, 2, 30, 16, seed=seed).astype(dtype) for seed in range(3))
    bias = normal(2, 30, 30, seed=4).astype(dtype)
    wide = [x.astype(mx.float32) for x in (queries, keys, values, bias)]
    whole = [attend(*wide[:3], 0.25), attend_biased(*wide)]
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda *heads, **_: mx.zeros_like(heads[0]))
    with use_limits(Limits(fused_attention=False)):
        found = [attend(queries, keys, values, 0.25), attend_biased(queries, keys, values, bias)]
    for one, other in zip(found, whole, strict=True):
        assert one.dtype == dtype
        # float32: one order of adding against another; bfloat16: weights and results of 8 bits, as above.
        tolerance = 2e-6 if dtype == mx.float32 else 0.02
        assert mx.abs(one.astype(mx.float32) - other).max().item() <= tolerance


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_attention_keeps_half_precision(dtype):
    queries, keys, values = (normal(1, 2, 9, 16, seed=seed).astype(dtype) for seed in range(3))
    found = attend(queries, keys, values, 0.25)
    expected = attend(*(x.astype(mx.float32) for x in (queries, keys, values)), 0.25)
    assert found.dtype == dtype
    # Eight bits of bfloat16's mantissa: each of weights and sums is off by up to 0.4 %.
    assert mx.abs(found.astype(mx.float32) - expected).max().item() < 0.02


def test_heads_are_contiguous_runs_of_channels():
    x = mx.arange(12.0).reshape(2, 6)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 2)
    assert heads[0, 1].tolist() == [[2, 3], [8, 9]]
    assert mx.array_equal(merge_heads(heads), x).item()
