"""Limits on single dispatches: how they are chosen, that they cut, and that cuts change nothing."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.models import dispatch
from mlx_video.models.dispatch import (
    CHIPS,
    CPU_LIMITS,
    LARGEST_ARRAY,
    SLOWEST_CHIP,
    TILE,
    WINOGRAD_SWITCH,
    Limits,
    current_limits,
    device_limits,
    find_chip,
    use_limits,
    with_measured_rate,
)
from mlx_video.models.elementwise import enable_compile, is_compile_enabled, on_gpu
from mlx_video.models.matmul import attend, in_chunks, project
from mlx_video.models.vae import convolutions as vae_convolutions
from mlx_video.models.vae.convolutions import causal_taps, convolve_doubled, convolve_halved, convolve_taps
from tests.models.networks import build_transformer, forward, relative_error, run_gpu_code
from tests.models.vae.tiny_vae import ROUNDING, draw, largest_difference

# Cuts everything that can be cut, at the smallest size that it may have.
TINY = Limits(seconds=1e-9, flops_per_second=1.0, chunk_elements=1, quantized_rows=16, block_tokens=1)


@pytest.fixture
def gpu(monkeypatch):
    run_gpu_code(monkeypatch)
    monkeypatch.setattr(vae_convolutions, "on_gpu", lambda: True)


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


# Choosing limits


@pytest.mark.parametrize(
    ("name", "architecture", "chip"),
    [
        ("Apple M1", "applegpu_g13g", "M1"),
        ("Apple M2 Pro", "applegpu_g14g", "M2 Pro"),
        ("Apple M3 Ultra", "applegpu_g15d", "M3 Ultra"),
        ("Apple M4 Max", "applegpu_g16s", "M4 Max"),
        ("a name of the future", "applegpu_g16s", "M4 Max"),
        ("a name of the future", "applegpu_g17g", "M5"),
        ("Apple M9 Max", "applegpu_g21s", "M1"),
        ("Apple A18 Pro", "applegpu_g17p", "M1"),
        ("Apple Paravirtual device", "", "M1"),
    ],
)
def test_a_chip_is_found_by_name_then_by_family_and_else_taken_for_the_slowest(name, architecture, chip):
    assert find_chip(name, architecture) == CHIPS[chip]


def test_the_slowest_chip_of_the_table_stands_in_for_unknown_ones():
    assert min(CHIPS.values(), key=lambda chip: chip.tflops) == SLOWEST_CHIP


def test_base_chips_get_shorter_dispatches_than_others():
    assert {name for name, chip in CHIPS.items() if chip.seconds < 1} == {"M1", "M2", "M3", "M4", "M5"}


def test_a_gpus_limits_come_from_the_table(monkeypatch):
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M2 Max", "architecture": "x"})
    assert device_limits.__wrapped__(True) == Limits(1.0, 7.2e12)
    assert device_limits.__wrapped__(False) == CPU_LIMITS


def test_a_measured_rate_replaces_the_tabled_one_where_time_is_limited():
    assert with_measured_rate(Limits(1.0, 1e12), 3e12) == Limits(1.0, 3e12)
    assert with_measured_rate(CPU_LIMITS, 3e12) == CPU_LIMITS


def test_other_limits_hold_inside_the_block_only():
    before = current_limits()
    with use_limits(TINY):
        assert current_limits() is TINY
        with pytest.raises(KeyError), use_limits(CPU_LIMITS):
            raise KeyError
        assert current_limits() is TINY
    assert current_limits() is before


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_limits_keep_mlx_from_winograds_method_inside_the_block_only(monkeypatch, before):
    if before is not None:
        monkeypatch.setenv(WINOGRAD_SWITCH, before)
    with use_limits(Limits()):
        assert os.environ.get(WINOGRAD_SWITCH) == before
    with use_limits(Limits(winograd=False)):
        assert os.environ[WINOGRAD_SWITCH] == "0"
    assert os.environ.get(WINOGRAD_SWITCH) == before


def test_fusing_that_is_faulty_cannot_be_switched_on():
    enable_compile(True)
    try:
        assert is_compile_enabled()
        with use_limits(Limits(fuses=False)):
            assert not is_compile_enabled()
    finally:
        enable_compile(None)


# How many rows


@pytest.mark.parametrize(
    ("chip", "tokens", "width", "rows"),
    # Worked by hand: seconds · rate / (4 · tokens · width), down to whole tiles.
    [
        ("M1 Max", 32760, 1536, 27264),
        ("M2 Pro", 32760, 1536, 17856),
        ("M2 Pro", 18480, 3072, 15808),
        ("M1 Max", 32760, 5120, 8192),
        ("M4 Max", 75600, 5120, 6272),
        ("M5 Max", 75600, 5120, 22464),
        ("M1", 75600, 5120, 256),
    ],
)
def test_queries_of_one_dispatch_stay_within_the_chips_second(chip, tokens, width, rows):
    limits = Limits(CHIPS[chip].seconds, CHIPS[chip].tflops * 1e12)
    assert limits.rows(flops=4 * tokens * width, fewest=256) == rows


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 2**36), st.integers(1, 2**45), st.sampled_from([1, 64, 256]))
def test_rows_never_make_an_array_beyond_32_bits_and_come_in_tiles(elements, flops, fewest):
    limits = Limits(1.0, 1.4e12)
    rows = limits.rows(elements=elements, flops=flops, fewest=fewest)
    assert rows >= 1
    assert rows == 1 or rows * elements <= LARGEST_ARRAY
    assert rows <= fewest or rows * flops <= 1.4e12
    assert rows <= fewest or rows * elements <= limits.chunk_elements
    assert rows < TILE or rows % TILE == 0 or rows == LARGEST_ARRAY // elements


@pytest.mark.parametrize(("dim", "ffn_dim"), [(1536, 8960), (3072, 14336), (5120, 13824)])
@pytest.mark.parametrize("limits", [CPU_LIMITS, Limits(1.0, 34.8e12)])
def test_hidden_tensors_and_scores_of_every_model_stay_below_32_bits(dim, ffn_dim, limits):
    longest = LARGEST_ARRAY // dim  # tokens of a residual stream that 32 bits can index
    assert limits.rows(elements=ffn_dim, flops=4 * dim * ffn_dim) * ffn_dim <= 2**30
    assert limits.rows(elements=dim // 128 * longest) * (dim // 128) * longest <= LARGEST_ARRAY


def test_nothing_is_cut_on_a_cpu_for_its_time():
    assert CPU_LIMITS.rows(flops=1e30) >= 2**24


# Cuts


@pytest.mark.usefixtures("gpu")
def test_attention_is_cut_by_time_into_dispatches_of_few_queries(monkeypatch):
    sizes = []
    fused = mx.fast.scaled_dot_product_attention

    def record(queries, *arguments, **options):
        sizes.append(queries.shape[2])
        return fused(queries, *arguments, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", record)
    heads = [normal(1, 2, 700, 16, seed=seed) for seed in range(3)]
    whole = attend(*heads, 0.25)
    # 320 queries' worth of operations in its second.
    with use_limits(Limits(1.0, 320 * 4 * 2 * 700 * 16)):
        cut = attend(*heads, 0.25)
    assert sizes == [700, 192, 256, 252]
    assert relative_error(cut, whole) <= 1e-6


@pytest.mark.usefixtures("gpu")
def test_dense_products_are_cut_by_time():
    layer, sizes = nn.Linear(64, 32), []
    call = nn.Linear.__call__
    with pytest.MonkeyPatch.context() as patch, use_limits(Limits(1.0, 128 * 2 * 64 * 32)):
        patch.setattr(nn.Linear, "__call__", lambda self, x: (sizes.append(len(x)), call(self, x))[1])
        project(layer, normal(300, 64))
    assert sizes == [64, 128, 108]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("bits", [None, 4])
def test_a_forward_cut_everywhere_gives_the_same_velocity(dtype, bits):
    transformer = build_transformer(dtype=dtype)
    if bits:
        nn.quantize(transformer.blocks[0], group_size=32, bits=bits)
    whole = forward(transformer)
    with use_limits(TINY):
        cut = forward(transformer)
    # One order of adding against another, where the kernel depends on the rows; in bfloat16 that moves
    # single roundings of 2^-9.
    assert relative_error(cut, whole) <= (1e-6 if dtype == mx.float32 else 1e-2)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "convolve",
    [
        lambda x: convolve_taps(causal_taps(x, [], 3), draw(7, 3, 3, 3, 5, seed=1), draw(7, seed=2)),
        lambda x: convolve_doubled(x, draw(7, 3, 3, 5, seed=1), draw(7, seed=2)),
        lambda x: convolve_halved(x, draw(7, 3, 3, 5, seed=1), draw(7, seed=2)),
    ],
    ids=["causal", "doubled", "halved"],
)
def test_convolutions_are_cut_frame_by_frame(monkeypatch, convolve):
    x, sizes = draw(1, 3, 4, 6, 5), []
    whole = convolve(x)
    conv2d = mx.conv2d
    monkeypatch.setattr(
        mx, "conv2d", lambda x, *rest, **more: (sizes.append(len(x)), conv2d(x, *rest, **more))[1]
    )
    with use_limits(TINY):
        cut = convolve(x)
    assert set(sizes) == {1}
    assert largest_difference(cut, whole) <= ROUNDING


@pytest.mark.usefixtures("gpu")
def test_convolutions_can_be_products_where_planes_are_faulty(monkeypatch):
    x, weight, bias = draw(1, 3, 4, 6, 5), draw(7, 3, 3, 3, 5, seed=1), draw(7, seed=2)
    whole = convolve_taps(causal_taps(x, [], 3), weight, bias)
    monkeypatch.setattr(mx, "conv2d", None)
    with use_limits(Limits(plane_convolutions=False)):
        assert largest_difference(convolve_taps(causal_taps(x, [], 3), weight, bias), whole) <= ROUNDING


def kernels_depend_on_rows() -> bool:
    """Whether this backend multiplies the same rows differently when there are fewer of them."""
    x, weight = normal(700, 160, seed=5), normal(160, 160, seed=6)
    return not mx.array_equal(x[:TILE] @ weight, (x @ weight)[:TILE]).item()


@pytest.mark.skipif(on_gpu(), reason="rounding differs between kernels of a GPU")
def test_chunks_of_whole_tiles_agree_bit_for_bit():
    if kernels_depend_on_rows():
        pytest.skip("this BLAS chooses its kernel by the number of rows")
    layer, x = nn.Linear(160, 160), normal(700, 160)
    heads = [normal(1, 2, 700, 64, seed=seed) for seed in range(3)]
    for rows in (64, 128, 320, 448):
        assert mx.array_equal(in_chunks(layer, x, rows), layer(x)).item()
        with use_limits(replace(CPU_LIMITS, chunk_elements=rows * 2 * 700)):
            cut = attend(*heads, 0.125)
        assert mx.array_equal(cut, attend(*heads, 0.125)).item()


# Evaluation points


@pytest.mark.parametrize(("tokens", "evaluations"), [(18, 2), (19, 0)])
def test_long_sequences_are_evaluated_after_every_block(monkeypatch, tokens, evaluations):
    evaluated = []
    monkeypatch.setattr(dispatch.mx, "eval", lambda array: evaluated.append(array.shape))
    with use_limits(replace(CPU_LIMITS, block_tokens=tokens)):
        forward(build_transformer())  # 18 tokens, two blocks
    assert evaluated == [(18, 64)] * evaluations


def test_limits_leave_finite_work_alone():
    assert math.isinf(CPU_LIMITS.flops_per_second)
    transformer = build_transformer()
    whole = forward(transformer)
    with use_limits(CPU_LIMITS):
        np.testing.assert_array_equal(forward(transformer), whole)


@pytest.mark.skipif(not on_gpu() and shutil.which("g++") is None, reason="fusing on a CPU needs g++")
def test_limits_are_read_when_a_fused_function_is_called():
    transformer = build_transformer()
    whole = forward(transformer)
    enable_compile(True)
    try:
        with use_limits(replace(CPU_LIMITS, fuses=False)):
            np.testing.assert_array_equal(forward(transformer), whole)
    finally:
        enable_compile(None)
