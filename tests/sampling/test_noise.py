import time

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.sampling.noise import draw_noise, open_noise

# torch 2.13 on an x86 processor: torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed)).
RECORDED = {
    (0, 5): [1.54099607, -0.293428898, -2.17878938, 0.568431258, -1.08452237],
    (2**63 - 1, 1): [1.21976304],
    (42, 16): [
        1.92691529, 1.48728406, 0.900717199, -2.10552096, 0.678418458, -1.23454487, -0.0430674776,
        -1.60466695, -0.752135277, 1.64872301, -0.392478645, -1.40360713, -0.727881312,
        -0.559430182, -0.768838882, 0.76244539,
    ],
    (2**63 - 1, 16): [
        -2.66429758, -1.0910486, 0.451447427, 0.228360698, 1.89861786, 1.56420887, -1.2553997,
        0.793644249, -1.75149465, -0.709674716, 1.21826625, 0.222246468, -2.51588416, 0.483752221,
        0.841786563, 0.140909612,
    ],
    (42, 21): [
        1.92691529, 1.48728406, 0.900717199, -2.10552096, 0.678418458, 1.07831764, 0.800800562,
        1.68062055, 0.355859905, -0.686622977, -0.493356347, 0.241487786, -1.11090386, 0.041759491,
        -0.251575291, 0.859858513, -0.309726775, -0.395710498, 0.803409338, -0.621595383,
        -0.592000544,
    ],
}  # fmt: skip


@pytest.mark.parametrize(("seed", "count"), RECORDED)
def test_torch_noise_is_what_torch_drew(seed, count):
    # Two units in the last place of float32: torch's vectorised log and cosine are approximations.
    noise = np.array(draw_noise("torch", seed, (count,)))
    np.testing.assert_allclose(noise, RECORDED[seed, count], rtol=0, atol=5e-7)


def test_torch_noise_of_a_video_is_what_torch_drew():
    noise = draw_noise("torch", 42, (16, 3, 8, 12))
    assert noise.shape == (16, 3, 8, 12)
    assert noise.dtype == mx.float32
    values = np.array(noise).reshape(-1)
    expected = [1.9269153, 1.4872841, -1.0284309, -1.0124340, 0.8591999, 0.8789023]
    np.testing.assert_allclose(values[[0, 1, 1000, 2304, 3456, 4607]], expected, rtol=0, atol=5e-7)
    assert values.mean(dtype=np.float64) == pytest.approx(1.3432825e-3, abs=1e-7)
    assert np.abs(values).mean(dtype=np.float64) == pytest.approx(0.79563868, abs=1e-7)


def test_torch_noise_takes_the_low_half_of_a_long_seed():
    assert mx.array_equal(draw_noise("torch", 42, (40,)), draw_noise("torch", 2**40 + 42, (40,))).item()


def test_mlx_noise_is_what_mx_random_draws():
    expected = mx.random.normal((2, 3, 4), key=mx.random.key(7))
    assert mx.array_equal(draw_noise("mlx", 7, (2, 3, 4)), expected).item()


@settings(deadline=None, max_examples=25)
@given(kind=st.sampled_from(["torch", "mlx"]), seed=st.integers(0, 2**64 - 1), count=st.integers(0, 70))
def test_a_seed_gives_the_same_finite_numbers_each_time(kind, seed, count):
    first, second = draw_noise(kind, seed, (count,)), draw_noise(kind, seed, (count,))
    assert first.shape == (count,)
    assert first.dtype == mx.float32
    assert mx.array_equal(first, second).item()
    assert mx.isfinite(first).all().item()


@pytest.mark.parametrize("kind", ["torch", "mlx"])
def test_noise_is_standard_normal(kind):
    values = np.array(draw_noise(kind, 1, (16, 4, 60, 104))).astype(np.float64)
    # 400,000 values: the standard error of the mean is 0.0016, of the deviation 0.0011; five of each may be.
    assert abs(values.mean()) < 8e-3
    assert abs(values.std() - 1) < 6e-3
    assert abs(np.mean(np.abs(values) < 1) - 0.6827) < 4e-3


def test_noise_of_a_whole_832x480_video_takes_less_than_two_seconds():
    started = time.perf_counter()
    mx.eval(draw_noise("torch", 0, (16, 21, 60, 104)))
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed {seed} is outside 0"):
        draw_noise("torch", seed, (4,))


def test_an_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'cuda'; choose from torch, mlx"):
        draw_noise("cuda", 0, (4,))


@settings(deadline=None, max_examples=25)
@given(kind=st.sampled_from(["torch", "mlx"]), count=st.integers(0, 50), times=st.integers(0, 3))
def test_skipped_noise_is_noise_that_nobody_has(kind, count, times):
    drawing, skipping = open_noise(kind, 3), open_noise(kind, 3)
    for _ in range(times):
        drawing.draw((count,))
    skipping.skip((count,), times)
    assert mx.array_equal(drawing.draw((20,)), skipping.draw((20,))).item()
