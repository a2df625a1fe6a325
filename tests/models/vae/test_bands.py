"""Other ways of a GPU to convolve: the same numbers, in bands that cover every row once."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.models.dispatch import Limits, use_limits
from mlx_video.models.vae import bands, convolutions, winograd
from mlx_video.models.vae.bands import convolve_joined, convolve_repeated
from mlx_video.models.vae.winograd import LEAST_PIXELS, TILE, band_bytes, cut_bands, winograd_bytes

pytestmark = pytest.mark.slow

RATIO = 1e-5


def draw(*shape: int, seed: int, scale: float = 1.0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)) * scale


def ratio(found: mx.array, expected: mx.array) -> float:
    assert found.shape == expected.shape
    return (mx.abs(found - expected).max() / mx.abs(expected).max()).item()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(convolutions, "on_gpu", lambda: True)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 1000), st.integers(1, 1300), st.sampled_from([(288, 96), (384, 192), (1024, 1024)]))
def test_bands_cover_every_row_once_in_whole_tiles_large_enough(height, width, channels):
    bands = cut_bands(height, width, *channels)
    assert [row for band in bands for row in band] == list(range(height))
    assert all(band.start % TILE == 0 for band in bands)
    if len(bands) > 1:
        # The last one may end in part of a tile.
        assert min((len(band) + TILE) * width for band in bands) > LEAST_PIXELS


def test_bands_hold_the_scratch_of_a_720p_frame_to_a_quarter_gigabyte():
    assert winograd_bytes(720, 1280, 288, 96) > 3e9
    assert band_bytes(720, 1280, 288, 96) < 0.45e9
    assert band_bytes(480, 832, 288, 96) < 0.45e9


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("band_bytes", [2**28, 1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_joined_taps_give_what_taps_one_by_one_give(monkeypatch, band_bytes, count):
    monkeypatch.setattr(winograd, "BAND_BYTES", band_bytes)
    taps = [draw(1, 1, 70, 130, 96, seed=tap) for tap in range(count)]
    weight, bias = draw(96, 3, 3, 3, 96, seed=7, scale=0.02), draw(96, seed=8)
    usual = convolutions.convolve_taps(taps, weight, bias)
    calls = []
    monkeypatch.setattr(convolutions, "convolve_joined", lambda *a: calls.append(1) or convolve_joined(*a))
    with use_limits(Limits(joins_taps=True)):
        joined = convolutions.convolve_taps(taps, weight, bias)
    assert len(calls) == (count > 1)  # one tap of 96 channels does not reach the method
    assert ratio(joined, usual) <= RATIO


@pytest.mark.usefixtures("gpu")
def test_taps_added_in_one_operation_give_what_three_sums_give():
    taps = [draw(1, 2, 16, 24, 32, seed=tap) for tap in range(3)]
    weight, bias = draw(32, 3, 3, 3, 32, seed=7, scale=0.03), draw(32, seed=8)
    usual = convolutions.convolve_taps(taps, weight, bias)
    with use_limits(Limits(fuses_taps=True)):
        assert mx.array_equal(convolutions.convolve_taps(taps, weight, bias), usual).item()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("band_bytes", [2**28, 1])
def test_repeated_pixels_give_what_kernels_by_parity_give(monkeypatch, band_bytes):
    monkeypatch.setattr(winograd, "BAND_BYTES", band_bytes)
    x = draw(1, 2, 35, 65, 192, seed=1)
    weight, bias = draw(96, 3, 3, 192, seed=2, scale=0.02), draw(96, seed=3)
    usual = convolutions.convolve_doubled(x, weight, bias)
    calls = []
    monkeypatch.setattr(
        convolutions, "convolve_repeated", lambda *a: calls.append(1) or convolve_repeated(*a)
    )
    with use_limits(Limits(repeats_pixels=True)):
        repeated = convolutions.convolve_doubled(x, weight, bias)
    assert len(calls) == 2
    assert ratio(repeated, usual) <= RATIO


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("flag", ["joins_taps", "repeats_pixels"])
def test_ways_by_winograds_method_are_not_taken_without_it(monkeypatch, flag):
    monkeypatch.setattr(convolutions, "convolve_joined", None)
    monkeypatch.setattr(convolutions, "convolve_repeated", None)
    taps = [draw(1, 1, 64, 64, 96, seed=tap) for tap in range(3)]
    with use_limits(replace(Limits(winograd=False), **{flag: True})):
        convolutions.convolve_taps(taps, draw(96, 3, 3, 3, 96, seed=7), mx.zeros(96))
        convolutions.convolve_doubled(taps[0], draw(160, 3, 3, 96, seed=7), mx.zeros(160))


def test_a_cpu_keeps_to_its_own_ways(monkeypatch):
    monkeypatch.setattr(convolutions, "on_gpu", lambda: False)
    monkeypatch.setattr(convolutions, "convolve_joined", None)
    monkeypatch.setattr(convolutions, "convolve_repeated", None)
    taps = [draw(1, 1, 64, 64, 96, seed=tap) for tap in range(3)]
    with use_limits(Limits(joins_taps=True, repeats_pixels=True, fuses_taps=True)):
        convolutions.convolve_taps(taps, draw(96, 3, 3, 3, 96, seed=7), mx.zeros(96))
        convolutions.convolve_doubled(taps[0], draw(160, 3, 3, 96, seed=7), mx.zeros(160))


def test_bands_are_cut_for_what_goes_in_and_what_comes_out(monkeypatch):
    asked = []
    monkeypatch.setattr(bands, "cut_bands", lambda *size: asked.append(size) or cut_bands(*size))
    convolve_repeated(mx.zeros((2, 4, 6, 8)), mx.zeros((5, 3, 3, 8)))
    assert asked == [(8, 12, 8, 5, 2)]
