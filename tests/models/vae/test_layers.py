from __future__ import annotations

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.models.kernels.channel_norm import silu
from mlx_video.models.vae import layers as vae_layers
from mlx_video.models.vae.layers import Downsample, FrameAttention, ResidualBlock, RMSNorm, Upsample
from mlx_video.models.vae.stream import StreamState
from tests.models.vae.tiny_vae import ROUNDING, draw, largest_difference, push_in_parts, push_whole, randomise

cuts = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(sizes=cuts)
def test_residual_block_gives_the_same_however_the_stream_is_cut(sizes):
    block, x = randomise(ResidualBlock(4, 6)), draw(1, sum(sizes), 3, 2, 4)
    assert largest_difference(push_in_parts(block, x, sizes), push_whole(block, x)) <= ROUNDING


# Norm and activation


def test_norm_gives_channels_the_length_of_root_c_times_gamma():
    norm = RMSNorm(4)
    norm.gamma = mx.array([1.0, 1.0, 1.0, 10.0])
    # |(1, 1, 1, 1)| = 2 and √4 = 2: the norm leaves ones as ones.
    assert mx.allclose(norm(mx.ones((1, 4))), mx.array([[1.0, 1.0, 1.0, 10.0]]), rtol=1e-6)


def test_norm_does_not_depend_on_the_scale_down_to_tiny_activations():
    norm, x = RMSNorm(8), draw(5, 8)
    assert largest_difference(norm(x * 1e-9), norm(x)) <= 1e-6  # a few roundings of the mean of squares


def test_norm_of_zeros_is_zero():
    assert mx.array_equal(RMSNorm(8)(mx.zeros((2, 8))), mx.zeros((2, 8)))


def test_silu_holds_from_one_end_of_the_range_to_the_other():
    x = np.array([-1000, -90, -20, -1, -1e-3, 0, 1e-3, 1, 20, 90, 1000])
    expected = x / (1 + np.exp(-np.maximum(x, -700)))
    # The power of two sees an exponent rounded to 2⁻²⁴ of its size, which is at most 30 before silu vanishes.
    assert np.allclose(np.array(silu(mx.array(x))), expected, rtol=3e-6, atol=1e-30)


# Resampling


def test_upsampling_leaves_the_first_frame_one_and_makes_two_of_every_other():
    layer = randomise(Upsample(4, 2, doubles_time=True))
    state = StreamState()
    assert layer(draw(1, 1, 3, 2, 4), state).shape == (1, 1, 6, 4, 2)
    assert layer(draw(1, 1, 3, 2, 4), state).shape == (1, 2, 6, 4, 2)
    assert layer(draw(1, 3, 3, 2, 4), state).shape == (1, 6, 6, 4, 2)


@settings(deadline=None, max_examples=25)
@given(sizes=cuts)
def test_upsampling_gives_the_same_however_the_stream_is_cut(sizes):
    layer, x = randomise(Upsample(4, 2, doubles_time=True)), draw(1, sum(sizes), 2, 3, 4)
    assert largest_difference(push_in_parts(layer, x, sizes), push_whole(layer, x)) <= ROUNDING


def test_upsampling_in_time_never_sees_the_first_frame():
    layer = randomise(Upsample(4, 2, doubles_time=True))
    x, other_start = draw(1, 4, 2, 2, 4), draw(1, 1, 2, 2, 4, seed=9)
    changed = mx.concatenate([other_start, x[:, 1:]], axis=1)
    before, after = push_whole(layer, x), push_whole(layer, changed)
    assert mx.array_equal(before[:, 1:], after[:, 1:])
    assert not mx.array_equal(before[:, :1], after[:, :1])


def test_halves_of_the_time_convolutions_channels_are_consecutive_frames():
    layer = Upsample(1, 1, doubles_time=True)
    layer.time_conv.bias = mx.array([3.0, 7.0])
    layer.resample[1].weight[:, 1, 1] = 1.0
    frames = push_whole(layer, mx.zeros((1, 3, 1, 1, 1)))[0]
    # Odd neighbours of a doubled pixel lie inside it, so a centre tap repeats the pixel.
    assert frames[:, 0, 0, 0].tolist() == [0, 3, 7, 3, 7]


def test_downsampling_pads_on_the_right_and_below_only():
    layer = Downsample(1, halves_time=False)
    layer.resample[1].weight = mx.ones((1, 3, 3, 1))
    counted = push_whole(layer, mx.ones((1, 1, 4, 4, 1)))[0, 0, :, :, 0]
    # 3×3 windows that start at every second pixel; the last ones lose a row or a column.
    assert counted.tolist() == [[9, 6], [6, 4]]


def test_downsampling_in_time_pairs_the_first_frame_with_the_next_two():
    layer = Downsample(1, halves_time=True)
    layer.resample[1].weight[:, 0, 0] = 1.0
    layer.time_conv.weight[0, :, 0, 0, 0] = mx.array([1.0, 10.0, 100.0])
    video = mx.broadcast_to(mx.array([1.0, 2, 3, 4, 5]).reshape(1, 5, 1, 1, 1), (1, 5, 2, 2, 1))
    # 1 passes by; then 1 + 10·2 + 100·3 and 3 + 10·4 + 100·5.
    assert push_whole(layer, video).flatten().tolist() == [1, 321, 543]


def test_downsampling_in_time_waits_for_the_second_frame_of_a_pair():
    layer, x = randomise(Downsample(2, halves_time=True)), draw(1, 5, 2, 2, 2)
    state = StreamState()
    given = [layer(part, state) for part in mx.split(x, 5, axis=1)]
    assert [chunk is None for chunk in given] == [False, True, False, True, False]


@settings(deadline=None, max_examples=25)
@given(sizes=cuts)
def test_downsampling_gives_the_same_however_the_stream_is_cut(sizes):
    layer, x = randomise(Downsample(3, halves_time=True)), draw(1, sum(sizes), 4, 2, 3)
    assert largest_difference(push_in_parts(layer, x, sizes), push_whole(layer, x)) <= ROUNDING


# Attention


def test_attention_in_chunks_equals_attention_at_once(monkeypatch):
    layer, x = randomise(FrameAttention(8)), draw(1, 2, 5, 7, 8)
    whole = layer(x, StreamState())
    monkeypatch.setattr(vae_layers, "QUERIES_AT_A_TIME", 4)
    assert largest_difference(layer(x, StreamState()), whole) <= ROUNDING


def test_attention_does_not_look_at_other_frames():
    layer, x = randomise(FrameAttention(8)), draw(1, 3, 2, 3, 8)
    alone = mx.concatenate([layer(frame, StreamState()) for frame in mx.split(x, 3, axis=1)], axis=1)
    assert largest_difference(layer(x, StreamState()), alone) <= ROUNDING
