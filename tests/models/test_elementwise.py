"""Elementwise functions, fused and plain."""

from __future__ import annotations

import math
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models import elementwise
from mlx_video.models.elementwise import (
    add_gated,
    enable_compile,
    gelu_erf,
    gelu_tanh,
    is_compile_enabled,
    on_gpu,
)


@pytest.fixture(autouse=True)
def restore_default():
    yield
    enable_compile(None)


def gelu_in_float64(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("function", [gelu_tanh, elementwise._gelu_by_tanh, elementwise._gelu_by_power])
def test_gelu_agrees_with_its_definition(function):
    x = np.linspace(-12, 12, 4001).astype(np.float32)
    # A few float32 roundings of values up to 12.
    np.testing.assert_allclose(
        np.array(function(mx.array(x))), gelu_in_float64(x.astype(np.float64)), atol=1e-6
    )


@pytest.mark.parametrize("function", [elementwise._gelu_by_tanh, elementwise._gelu_by_power])
def test_gelu_of_extreme_values_is_zero_or_the_value(function):
    found = np.array(function(mx.array([-1e30, -1e4, 0.0, 1e4, 1e30])))
    np.testing.assert_array_equal(found, np.float32([0, 0, 0, 1e4, 1e30]))


def test_gelu_by_the_error_function_agrees_with_its_definition():
    x = np.linspace(-12, 12, 4001).astype(np.float32)
    expected = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
    # A few float32 roundings of values up to 12.
    np.testing.assert_allclose(np.array(gelu_erf(mx.array(x))), expected, atol=1e-6)


@pytest.mark.parametrize("function", [gelu_tanh, gelu_erf])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_gelu_of_half_precision_is_rounded_once(dtype, function):
    x = mx.linspace(-6, 6, 301).astype(dtype)
    found = function(x)
    assert found.dtype == dtype
    assert mx.array_equal(found, function(x.astype(mx.float32)).astype(dtype)).item()


def test_gated_addition_stays_in_float32():
    x, y, gate = mx.array([[1.0, 2.0]]), mx.array([[3.0, 4.0]], dtype=mx.bfloat16), mx.array([0.5, -1.0])
    found = add_gated(x, y, gate)
    assert found.dtype == mx.float32
    assert found.tolist() == [[2.5, -2.0]]


def test_the_switch_overrides_the_default_and_gives_it_back():
    assert is_compile_enabled() == on_gpu()
    for choice in (True, False):
        enable_compile(choice)
        assert is_compile_enabled() == choice
    enable_compile(None)
    assert is_compile_enabled() == on_gpu()


@pytest.mark.skipif(not on_gpu() and shutil.which("g++") is None, reason="fusing on a CPU needs g++")
def test_fused_equals_plain():
    x, gate = mx.random.normal((7, 16), key=mx.random.key(0)), mx.random.normal((16,), key=mx.random.key(1))
    results = []
    for choice in (False, True):
        enable_compile(choice)
        results.append(np.array(mx.concatenate([gelu_tanh(x), add_gated(x, 2 * x, gate)])))
    # A fused kernel may keep a product unrounded on its way into a sum.
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6, atol=1e-6)
