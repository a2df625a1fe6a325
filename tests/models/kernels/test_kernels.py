"""Kernels give what the operations in their place give; a GPU takes them only by the device check's word."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.geometry import Triple
from mlx_video.models.dispatch import current_limits, use_limits
from mlx_video.models.kernels.channel_norm import CHANNEL_NORM, normalize_and_activate
from mlx_video.models.kernels.layer_norm import LAYER_NORM, layer_norm
from mlx_video.models.kernels.metal_kernel import MetalKernel, sum_of_row
from mlx_video.models.kernels.rotary_norm import ROTARY_NORM, rotary_norm
from mlx_video.models.rope import build_rotary_table
from mlx_video.models.token_layout import video_layout
from tests.models.kernels.metal_in_cpp import COMPILER, run_in_cpp

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16
EPS = 1e-6


@pytest.fixture
def kernels(monkeypatch):
    """Every kernel chosen, and run in C++."""
    monkeypatch.setattr(MetalKernel, "run", run_in_cpp)
    chosen = frozenset({LAYER_NORM.name, ROTARY_NORM.name, CHANNEL_NORM.name})
    return lambda: use_limits(replace(current_limits(), kernels=chosen))


def both_ways(kernels, function):
    twin = function()
    with kernels():
        return function(), twin


def draw(*shape, dtype=F32, scale=1.0, offset=0.0, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape) * scale + offset
    return mx.array(values.astype(np.float32)).astype(dtype)


# One step of a type, as a part of a number at most. float32: sums of thousands in another order.
STEP = {F32: 1e-6, F16: 2.0**-10, BF16: 2.0**-7}


def assert_same(found, twin, terms=np.abs):
    """Equal to one step of the type that both are rounded to.

    Args:
        terms: the size of what a result is the sum of, which may cancel.
    """
    assert (found.shape, found.dtype) == (twin.shape, twin.dtype)
    mine, other = np.array(found.astype(F32), np.float64), np.array(twin.astype(F32), np.float64)
    assert np.isfinite(mine).all()
    # Results near zero come of terms of about 1.
    assert (np.abs(mine - other) <= STEP[found.dtype] * terms(other) + 1e-6 * np.abs(other).max()).all()


def lengths_of_pairs(x):
    """A step of the pair, whose length turning keeps, for each of two roundings before it."""
    return 2 * np.linalg.norm(x.reshape(-1, 2), axis=1).repeat(2).reshape(x.shape)


ROWS = [1, 31, 33, pytest.param(300, marks=pytest.mark.slow)]
DIMS = [64, 1536, 3072, 5120]
DTYPES = pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=["float32", "float16", "bfloat16"])


@DTYPES
@pytest.mark.sample(12)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rows", ROWS)
def test_layer_norm_is_that_of_its_twin(kernels, rows, dim, dtype):
    x, weight, bias = draw(rows, dim, scale=3.0), 1 + draw(dim, seed=1), draw(dim, seed=2)
    assert_same(*both_ways(kernels, lambda: layer_norm(x, weight, bias, EPS, dtype)))


@pytest.mark.parametrize("offset", [0.0, 1e3, -6e4])
def test_layer_norm_cancels_no_worse_than_its_twin_where_the_mean_is_large(kernels, offset):
    x, weight, bias = draw(5, 1536, offset=offset), mx.ones(1536), mx.zeros(1536)
    found, twin = both_ways(kernels, lambda: layer_norm(x, weight, bias, EPS, F32))
    wide = np.array(x, np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    right = centred / np.sqrt(wide.var(1, keepdims=True) + EPS)
    errors = [np.abs(np.array(one, np.float64) - right).max() for one in (found, twin)]
    assert errors[0] <= 2 * errors[1] + 1e-6


def test_layer_norm_of_equal_numbers_is_the_bias(kernels):
    x, bias = mx.full((3, 64), 2.0), draw(64)
    with kernels():
        found = layer_norm(x, mx.ones(64), bias, EPS, F32)
    assert mx.array_equal(found, mx.broadcast_to(bias, (3, 64)))


@DTYPES
@pytest.mark.sample(12)
@pytest.mark.parametrize(
    ("heads", "head_dim"), [(1, 12), (12, 128), (24, 128), (40, 128)], ids=["tiny", "1.3B", "5B", "14B"]
)
@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 3, 5), pytest.param((2, 10, 13), marks=pytest.mark.slow)])
def test_rotary_norm_is_that_of_its_twin(kernels, grid: Triple, heads, head_dim, dtype):
    table = build_rotary_table(video_layout(grid), head_dim)
    norm = nn.RMSNorm(heads * head_dim, eps=EPS)
    norm.weight = draw(heads * head_dim, dtype=dtype, seed=1)
    x = draw(int(np.prod(grid)), heads * head_dim, dtype=dtype, scale=3.0)
    assert_same(*both_ways(kernels, lambda: rotary_norm(x, norm, table, heads)), terms=lengths_of_pairs)


def test_rotary_norm_whose_weight_is_wider_keeps_the_way_of_mlx(kernels, monkeypatch):
    monkeypatch.setattr(MetalKernel, "run", None)
    table, norm = build_rotary_table(video_layout((1, 1, 2)), 12), nn.RMSNorm(12, eps=EPS)
    with kernels():
        assert rotary_norm(draw(2, 12, dtype=BF16), norm, table, 1).dtype == F32


@pytest.mark.parametrize("channels", [12, 96, 192, 384, 256, 512, 1024])
@pytest.mark.parametrize("positions", [(1, 1, 1, 1), (1, 2, 3, 5), (1, 1, 17, 31)])
def test_channel_norm_is_that_of_its_twin(kernels, positions, channels):
    x, gamma = draw(*positions, channels, scale=3.0), draw(channels, seed=1)
    assert_same(*both_ways(kernels, lambda: normalize_and_activate(x, gamma)))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_channel_norm_holds_for_numbers_of_any_size(kernels, scale):
    x, gamma = draw(3, 96, scale=scale), draw(96, scale=60.0, seed=1)
    found, twin = both_ways(kernels, lambda: normalize_and_activate(x, gamma))
    # Far below zero sigmoid vanishes: there both are the smallest of numbers.
    assert np.allclose(np.array(found), np.array(twin), rtol=3e-6, atol=1e-5)


@pytest.mark.parametrize("is_backwards", [False, True], ids=["first thread first", "last thread first"])
def test_results_do_not_depend_on_the_order_of_threads(kernels, monkeypatch, is_backwards):
    x, weight, bias = draw(3, 1536), draw(1536, seed=1), draw(1536, seed=2)
    with kernels():
        usual = layer_norm(x, weight, bias, EPS, BF16)
        monkeypatch.setattr(MetalKernel, "run", partial_run(is_backwards))
        assert mx.array_equal(layer_norm(x, weight, bias, EPS, BF16), usual)


def partial_run(is_backwards):
    def run(kernel, arrays, **options):
        return run_in_cpp(kernel, arrays, **options, is_backwards=is_backwards)

    return run


def test_a_missing_barrier_is_noticed(kernels):
    broken = replace(LAYER_NORM, source=LAYER_NORM.source.replace("threadgroup_barrier", "(void)"))
    x, weight, bias = draw(2, 1536), mx.ones(1536), mx.zeros(1536)
    options = {"constants": {"T": F32, "DIM": 1536}, "threads": 512, "group": 256, "shape": (2, 1536)}
    arrays = (x, weight, bias, mx.array(EPS))
    right, found = (run_in_cpp(one, arrays, **options, dtype=F32) for one in (LAYER_NORM, broken))
    assert not mx.allclose(right, found, atol=1e-3)


def test_names_tell_kernels_apart_and_no_name_is_one_of_metals_attributes():
    kernels = (LAYER_NORM, ROTARY_NORM, CHANNEL_NORM)
    assert len({kernel.name for kernel in kernels}) == 3
    for kernel in kernels:
        # MLX passes shapes and strides where these words occur.
        assert not any(
            f"{name}_{fact}" in kernel.source for name in kernel.inputs for fact in ("shape", "strides")
        )


def test_a_row_is_summed_whole():
    source = sum_of_row("total", "parts")
    assert "threadgroup float parts[8]" in source
    assert source.count("threadgroup_barrier") == 1
