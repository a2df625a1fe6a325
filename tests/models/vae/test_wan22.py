from __future__ import annotations

from dataclasses import replace
from math import prod

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_video.config import WAN22_VAE
from mlx_video.latents.decode import decode_frames, denormalise
from mlx_video.latents.encode import encode_video
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.stream import StreamState
from mlx_video.models.vae.wan22 import (
    DownStage,
    UpStage,
    add_repeated,
    average_squares,
    pack_pixels,
    unpack_pixels,
)
from tests.models.vae.tiny_vae import (
    NETWORK,
    ROUNDING,
    TINY22,
    build_vae,
    channels_last,
    decode,
    draw,
    encode,
    largest_difference,
    memory_in_use,
    parameter_shapes,
    probe,
    push_in_parts,
    push_whole,
    randomise,
)

pytestmark = pytest.mark.slow

GOLDEN = replace(WAN22_VAE, encoder_dim=16, decoder_dim=16)
cuts = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return build_vae(TINY22)


# Parameters


@pytest.mark.parametrize(
    ("config", "count"),
    [(TINY22, 196), (replace(TINY22, encoder_dim=None), 110), (replace(TINY22, decoder_dim=None), 86)],
    ids=["whole", "decoder", "encoder"],
)
def test_parameters_are_the_tensors_of_the_official_file(config, count):
    found = {name: value.shape for name, value in tree_flatten(WanVAE(config).parameters())}
    assert found == parameter_shapes(config)
    assert len(found) == count


def test_real_widths_have_the_published_number_of_parameters():
    shapes = {name: value.shape for name, value in tree_flatten(WanVAE(WAN22_VAE).parameters())}
    counts = {half: sum(prod(s) for n, s in shapes.items() if n.startswith(half)) for half in ("enc", "dec")}
    assert counts == {"enc": 149_627_776, "dec": 555_049_228}
    assert sum(map(prod, shapes.values())) == 704_688_668


def test_absent_half_is_named_when_it_is_asked_for():
    with pytest.raises(ValueError, match="without its encoder: encoder_dim is None"):
        list(WanVAE(replace(TINY22, encoder_dim=None)).encode(mx.zeros((1, 1, 16, 16, 3)), StreamState()))
    with pytest.raises(ValueError, match="without its decoder: decoder_dim is None"):
        list(WanVAE(replace(TINY22, decoder_dim=None)).decode(mx.zeros((1, 1, 1, 1, 48)), StreamState()))


# Packing and shortcuts, worked by hand


def test_pixels_of_a_square_are_packed_by_colour_then_column_then_row():
    square = mx.array([[11, 12], [21, 22]])
    frames = mx.stack([square, 100 + square], axis=-1)[None, None]
    assert pack_pixels(frames).flatten().tolist() == [11, 21, 12, 22, 111, 121, 112, 122]


@settings(deadline=None, max_examples=25)
@given(sides=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
def test_unpacking_undoes_packing(sides):
    batch, count, height, width = sides
    frames = draw(batch, count, 2 * height, 2 * width, 3)
    packed = pack_pixels(frames)
    assert packed.shape == (batch, count, height, width, 12)
    assert mx.array_equal(unpack_pixels(packed), frames)


def test_squares_are_averaged_channel_by_channel():
    x = mx.stack([mx.arange(8.0).reshape(2, 4), mx.full((2, 4), 5.0)], axis=-1)[None, None]
    assert average_squares(x).tolist() == [[[[[2.5, 5.0], [4.5, 5.0]]]]]


def test_a_shortcut_repeats_pixels_and_frames_but_the_first_frame_of_a_stream():
    x = mx.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1, 1)
    first, later = (add_repeated(mx.zeros((1, count, 2, 2, 1)), x) for count in (5, 6))
    for repeated, frames in ((first, [1, 2, 2, 3, 3]), (later, [1, 1, 2, 2, 3, 3])):
        assert repeated[0, :, 0, 0, 0].tolist() == frames
        assert mx.array_equal(repeated, mx.broadcast_to(repeated[:, :, :1, :1], repeated.shape))


def test_a_shortcut_to_half_the_channels_lays_pairs_of_channels_below_each_other():
    x = mx.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 1, 4)
    repeated = add_repeated(mx.zeros((1, 1, 2, 2, 2)), x)[0, 0]
    assert repeated[:, :, 0].tolist() == [[1, 1], [2, 2]]
    assert repeated[:, :, 1].tolist() == [[3, 3], [4, 4]]


def test_the_way_around_a_downsampling_stage_pairs_frames_into_even_and_odd_channels():
    stage = DownStage(1, 2, halves_space=True, halves_time=True)  # all weights are zero
    frames = mx.broadcast_to(mx.array([1.0, 2, 3, 4, 5]).reshape(1, 5, 1, 1, 1), (1, 5, 2, 2, 1))
    # The first frame has a zero for its partner; then (2, 3) and (4, 5).
    assert push_whole(stage, frames).reshape(3, 2).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_downsampling_stage_waits_for_the_second_frame_of_a_pair():
    stage, x = randomise(DownStage(2, 4, halves_space=True, halves_time=True)), draw(1, 5, 2, 2, 2)
    state = StreamState()
    given = [stage(part, state) for part in mx.split(x, 5, axis=1)]
    assert [chunk is None for chunk in given] == [False, True, False, True, False]


def test_the_last_stages_differ_one_adds_its_input_the_other_does_not():
    # Zero weights: what comes out is what went around the blocks, and through them.
    up = UpStage(2, 2, doubles_space=False, doubles_time=False)
    down = DownStage(2, 2, halves_space=False, halves_time=False)
    x = draw(1, 1, 2, 2, 2)
    assert mx.array_equal(push_whole(up, x), x)
    assert mx.array_equal(push_whole(down, x), 2 * x)


@settings(deadline=None, max_examples=15)
@given(sizes=cuts, out=st.sampled_from([2, 4]))
def test_an_upsampling_stage_gives_the_same_however_the_stream_is_cut(sizes, out):
    stage = randomise(UpStage(4, out, doubles_space=True, doubles_time=out == 4))
    x = draw(1, sum(sizes), 2, 3, 4)
    # Seven convolutions, each a few roundings.
    assert largest_difference(push_in_parts(stage, x, sizes), push_whole(stage, x)) <= 4 * ROUNDING


@settings(deadline=None, max_examples=15)
@given(sizes=cuts)
def test_a_downsampling_stage_gives_the_same_however_the_stream_is_cut(sizes):
    stage = randomise(DownStage(3, 6, halves_space=True, halves_time=True))
    x = draw(1, sum(sizes), 4, 2, 3)
    assert largest_difference(push_in_parts(stage, x, sizes), push_whole(stage, x)) <= 4 * ROUNDING


# Numbers recorded from the official code in float64


def test_decoder_gives_the_recorded_frames():
    latents = denormalise(channels_last(probe((48, 3, 4, 6), 0.5, 1.2))[None], GOLDEN)
    video = np.array(decode(build_vae(GOLDEN), latents, [1, 1, 1]))[0].transpose(3, 0, 1, 2)
    assert video.shape == (3, 9, 64, 96)
    places = ([0, 1, 2, 0, 1, 2], [0, 0, 1, 4, 5, 8], [0, 32, 5, 63, 32, 63], [0, 48, 7, 95, 3, 0])
    recorded = [0.055335, 0.145932, -0.344801, 0.380477, -0.133706, -0.219501]
    per_frame = [
        -0.018012, -0.037327, -0.049759, -0.019965, -0.015739, -0.038547, -0.026770, -0.035030, -0.018318,
    ]  # fmt: skip
    np.testing.assert_allclose(video[places], recorded, atol=NETWORK)
    np.testing.assert_allclose(video.mean(axis=(0, 2, 3)), per_frame, atol=NETWORK)
    np.testing.assert_allclose([video.mean(), video.std()], [-0.028830, 0.534757], atol=NETWORK)


def test_encoder_gives_the_recorded_latents():
    frames = channels_last(probe((3, 9, 64, 96), 0.2, 0.9))
    latents = np.array(encode_video(build_vae(GOLDEN), frames))
    assert latents.shape == (48, 3, 4, 6)
    places = ([0, 5, 47, 1, 7], [0, 0, 1, 2, 2], [0, 2, 3, 0, 3], [0, 3, 5, 5, 0])
    recorded = [-1.182286, 1.517407, 0.092650, -0.537650, -0.404889]
    np.testing.assert_allclose(latents[places], recorded, atol=NETWORK)
    np.testing.assert_allclose(latents.mean(axis=(0, 2, 3)), [0.013901, 0.028911, 0.021779], atol=NETWORK)
    np.testing.assert_allclose([latents.mean(), latents.std()], [0.021530, 0.836772], atol=NETWORK)


# Streaming


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 5), (3, 9), (21, 81)])
def test_latents_decode_to_four_times_as_many_frames_less_three(vae, latents, frames):
    assert decode(vae, mx.zeros((1, latents, 1, 1, 48)), [1] * latents).shape == (1, frames, 16, 16, 3)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3)])
def test_frames_become_a_quarter_as_many_latents_and_the_first(vae, frames, latents):
    assert encode_video(vae, mx.zeros((frames, 16, 32, 3))).shape == (48, latents, 1, 2)


@pytest.mark.parametrize("pushes", [[1] * 5, [2, 2, 1], [1, 4], [5]], ids=str)
@pytest.mark.parametrize("parts", [(1, 1, 1, 1), (2, 2, 1, 3), (99, 99, 99, 99)], ids=str)
def test_decoding_is_the_same_however_it_is_cut(vae, pushes, parts):
    latents = draw(1, 5, 2, 3, 48)
    found = decode(vae, latents, pushes, parts)
    assert largest_difference(found, decode(vae, latents, [5], (99,) * 4)) <= NETWORK


@settings(deadline=None, max_examples=10)
@given(cuts=st.sets(st.integers(1, 12)), parts=st.tuples(*[st.sampled_from([1, 2, 3, 99])] * 4))
def test_encoding_is_the_same_however_it_is_cut(vae, cuts, parts):
    frames = draw(1, 13, 32, 16, 3)
    pushes = np.diff([0, *sorted(cuts), 13]).tolist()
    found = encode(vae, frames, pushes, parts)
    assert found.shape == (1, 4, 2, 1, 48)
    assert largest_difference(found, encode(vae, frames, [13], (99,) * 4)) <= NETWORK


def test_an_image_is_the_first_latent_of_every_clip_it_begins(vae):
    frames = mx.clip(draw(5, 16, 32, 3), -1, 1)
    assert mx.array_equal(encode_video(vae, frames[:1]), encode_video(vae, frames)[:, :1])


def test_clips_of_a_batch_share_nothing(vae):
    latents = draw(2, 3, 2, 2, 48)
    alone = [decode(vae, latents[index : index + 1], [1, 2]) for index in range(2)]
    assert largest_difference(decode(vae, latents, [1, 2]), mx.concatenate(alone)) <= NETWORK


def test_two_clips_can_be_decoded_in_turns_and_frames_are_clamped(vae):
    first, second = 30 * draw(48, 3, 2, 2), draw(48, 3, 2, 2, seed=1)
    in_turns = [chunks for pair in zip(decode_frames(vae, first), decode_frames(vae, second), strict=True)
                for chunks in pair]  # fmt: skip
    alone = mx.concatenate(list(decode_frames(vae, first)))
    assert mx.array_equal(mx.concatenate(in_turns[::2]), alone)
    assert (alone.min().item(), alone.max().item()) == (-1.0, 1.0)


def test_later_latents_do_not_change_earlier_frames(vae):
    latents = draw(1, 3, 2, 2, 48)
    longer, shorter = decode(vae, latents, [1, 1, 1]), decode(vae, latents[:, :2], [1, 1])
    assert mx.array_equal(longer[:, :5], shorter)


def test_a_stream_does_not_take_latents_of_another_size(vae):
    state = StreamState()
    list(vae.decode(mx.zeros((1, 1, 2, 2, 48)), state))
    with pytest.raises(ValueError, match="new StreamState for every clip"):
        list(vae.decode(mx.zeros((1, 1, 2, 3, 48)), state))


def test_sides_that_are_no_multiple_of_the_stride_are_refused(vae):
    with pytest.raises(ValueError, match="24x16, both sides must be multiples of 16x16"):
        encode_video(vae, mx.zeros((1, 16, 24, 3)))


def test_both_halves_keep_the_same_number_of_bytes_from_the_third_latent_on(vae):
    decoding, encoding, kept = StreamState(), StreamState(), []
    for index in range(6):
        list(vae.decode(mx.zeros((1, 1, 2, 3, 48)), decoding))
        list(vae.encode(mx.zeros((1, 4 if index else 1, 32, 48, 3)), encoding))
        kept.append((decoding.nbytes(), encoding.nbytes()))
    # Per latent pixel of the real VAE 456,800 and 150,656 elements. All but two frames of the latent's own 48
    # channels, and two of 8×8 packed pixels, are features that grow with the widths.
    decoder = ((456_800 - 96) * TINY22.decoder_dim // 256 + 96) * 6 * 4
    encoder = ((150_656 - 1536) * TINY22.encoder_dim // 160 + 1536) * 6 * 4
    assert kept[2:] == [(decoder, encoder)] * 4


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_memory_does_not_grow_with_the_clip(vae, direction):
    encoding = direction == "encode"
    chunk = mx.zeros((1, 4, 96, 96, 3) if encoding else (1, 1, 6, 6, 48))
    used = memory_in_use(vae, chunk, 8, encoding=encoding)
    # Allocations are rounded up, by a few kilobytes more or less; one leaked frame of the widest stage would
    # add 74 kB at every push, one of each layer half a megabyte.
    assert max(used[2:]) - used[2] <= 64_000
