from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.models.vae import convolutions as vae_convolutions
from mlx_video.models.vae.convolutions import causal_taps, convolve_doubled, convolve_taps
from tests.models.vae.tiny_vae import ROUNDING, draw, largest_difference


@pytest.mark.parametrize("channels", [5, 40], ids=["one convolution per tap", "shifted products"])
@pytest.mark.parametrize("frames", [1, 3])
def test_causal_convolution_is_a_padded_conv3d(channels, frames):
    x, weight, bias = draw(2, frames, 4, 6, channels), draw(7, 3, 3, 3, channels, seed=1), draw(7, seed=2)
    found = convolve_taps(causal_taps(x, [], 3), weight, bias)
    in_front = mx.pad(x, [(0, 0), (2, 0), (0, 0), (0, 0), (0, 0)])
    assert largest_difference(found, mx.conv3d(in_front, weight, padding=(0, 1, 1)) + bias) <= ROUNDING


def test_both_forms_of_the_convolution_agree(monkeypatch):
    x, weight, bias = draw(1, 3, 5, 4, 40), draw(6, 3, 3, 3, 40, seed=1), draw(6, seed=2)
    shifted = convolve_taps(causal_taps(x, [], 3), weight, bias)
    monkeypatch.setattr(vae_convolutions, "on_gpu", lambda: True)
    assert largest_difference(convolve_taps(causal_taps(x, [], 3), weight, bias), shifted) <= ROUNDING


def test_first_frame_of_a_stream_costs_one_tap():
    x = draw(1, 1, 2, 2, 3)
    assert len(causal_taps(x, [], 3)) == 1
    assert len(causal_taps(x, [x], 3)) == 2
    assert len(causal_taps(x, [x, x], 3)) == 3


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 5), width=st.integers(1, 5), frames=st.integers(1, 2))
def test_convolving_doubled_frames_equals_repeating_pixels_first(height, width, frames):
    x, weight, bias = draw(1, frames, height, width, 4), draw(6, 3, 3, 4, seed=1), draw(6, seed=2)
    repeated = mx.repeat(mx.repeat(x[0], 2, axis=1), 2, axis=2)
    expected = mx.conv2d(repeated, weight, padding=1) + bias
    assert largest_difference(convolve_doubled(x, weight, bias)[0], expected) <= ROUNDING
