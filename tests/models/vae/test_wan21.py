from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_video.config import VAEConfig
from mlx_video.latents.decode import denormalise
from mlx_video.latents.encode import encode_video
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.stream import StreamState
from tests.models.vae.tiny_vae import (
    NETWORK,
    TINY,
    build_vae,
    channels_last,
    decode,
    encode,
    largest_difference,
    memory_in_use,
    parameter_shapes,
    probe,
)

pytestmark = pytest.mark.slow

GOLDEN = VAEConfig(encoder_dim=16, decoder_dim=16)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return build_vae(TINY)


# Parameters


@pytest.mark.parametrize(
    ("config", "count"),
    [(TINY, 194), (replace(TINY, encoder_dim=None), 108), (replace(TINY, decoder_dim=None), 86)],
    ids=["whole", "decoder", "encoder"],
)
def test_parameters_are_the_tensors_of_the_converted_file(config, count):
    found = {name: value.shape for name, value in tree_flatten(WanVAE(config).parameters())}
    assert found == parameter_shapes(config)
    assert len(found) == count


def test_real_widths_have_the_published_number_of_parameters():
    counts = {
        half: sum(value.size for _, value in tree_flatten(WanVAE(config).parameters()))
        for half, config in {
            "encoder": VAEConfig(decoder_dim=None),
            "decoder": VAEConfig(encoder_dim=None),
        }.items()
    }
    top_level = 32 * 32 + 32, 16 * 16 + 16
    assert counts == {"encoder": 53_595_872 + top_level[0], "decoder": 73_295_331 + top_level[1]}


def test_absent_half_is_named_when_it_is_asked_for():
    with pytest.raises(ValueError, match="without its encoder: encoder_dim is None"):
        list(WanVAE(replace(TINY, encoder_dim=None)).encode(mx.zeros((1, 1, 8, 8, 3)), StreamState()))
    with pytest.raises(ValueError, match="without its decoder: decoder_dim is None"):
        list(WanVAE(replace(TINY, decoder_dim=None)).decode(mx.zeros((1, 1, 1, 1, 16)), StreamState()))


# Numbers recorded from the official code in float64


def test_decoder_gives_the_recorded_frames():
    latents = denormalise(channels_last(probe((16, 3, 4, 6), 0.5, 1.2))[None], GOLDEN)
    video = np.array(decode(build_vae(GOLDEN), latents, [1, 1, 1]))[0].transpose(3, 0, 1, 2)
    assert video.shape == (3, 9, 32, 48)
    places = ([0, 1, 2, 0, 1, 2], [0, 0, 1, 4, 5, 8], [0, 16, 5, 31, 16, 31], [0, 24, 7, 47, 3, 0])
    recorded = [0.287600, 1.040334, -0.407555, 0.550926, -0.678141, -1.025464]
    per_frame = [
        0.139281, 0.175271, -0.104480, 0.057257, -0.072447, -0.008431, -0.074278, 0.041898, -0.121985,
    ]  # fmt: skip
    np.testing.assert_allclose(video[places], recorded, atol=NETWORK)
    np.testing.assert_allclose(video.mean(axis=(0, 2, 3)), per_frame, atol=NETWORK)
    np.testing.assert_allclose([video.mean(), video.std()], [0.003565, 0.890030], atol=NETWORK)


def test_encoder_gives_the_recorded_latents():
    frames = channels_last(probe((3, 9, 32, 48), 0.2, 0.9))
    latents = np.array(encode_video(build_vae(GOLDEN), frames))
    assert latents.shape == (16, 3, 4, 6)
    places = ([0, 5, 15, 1, 7], [0, 0, 1, 2, 2], [0, 2, 3, 0, 3], [0, 3, 5, 5, 0])
    recorded = [0.283238, -0.300937, -0.166168, 1.084748, -0.986394]
    np.testing.assert_allclose(latents[places], recorded, atol=NETWORK)
    np.testing.assert_allclose(latents.mean(axis=(0, 2, 3)), [0.117949, 0.112273, 0.152943], atol=NETWORK)
    np.testing.assert_allclose([latents.mean(), latents.std()], [0.127722, 0.429851], atol=NETWORK)


# Streaming


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 5), (3, 9), (21, 81)])
def test_latents_decode_to_four_times_as_many_frames_less_three(vae, latents, frames):
    assert decode(vae, mx.zeros((1, latents, 1, 1, 16)), [1] * latents).shape == (1, frames, 8, 8, 3)


@pytest.mark.parametrize("pushes", [[1] * 5, [2, 2, 1], [1, 4], [5]], ids=str)
@pytest.mark.parametrize("parts", [(1, 1, 1, 1), (2, 2, 1, 3), (99, 99, 99, 99)], ids=str)
def test_decoding_is_the_same_however_it_is_cut(vae, pushes, parts):
    latents = mx.random.normal((1, 5, 2, 3, 16), key=mx.random.key(0))
    found = decode(vae, latents, pushes, parts)
    assert largest_difference(found, decode(vae, latents, [5], (99,) * 4)) <= NETWORK


@settings(deadline=None, max_examples=10)
@given(cuts=st.sets(st.integers(1, 12)), parts=st.tuples(*[st.sampled_from([1, 2, 3, 99])] * 4))
def test_encoding_is_the_same_however_it_is_cut(vae, cuts, parts):
    frames = mx.random.normal((1, 13, 16, 8, 3), key=mx.random.key(0))
    pushes = np.diff([0, *sorted(cuts), 13]).tolist()
    found = encode(vae, frames, pushes, parts)
    assert found.shape == (1, 4, 2, 1, 16)
    assert largest_difference(found, encode(vae, frames, [13], (99,) * 4)) <= NETWORK


def test_clips_of_a_batch_share_nothing(vae):
    latents = mx.random.normal((2, 3, 2, 2, 16), key=mx.random.key(0))
    alone = [decode(vae, latents[index : index + 1], [1, 2]) for index in range(2)]
    assert largest_difference(decode(vae, latents, [1, 2]), mx.concatenate(alone)) <= NETWORK


def test_a_clip_leaves_no_trace_in_the_next(vae):
    first, second = mx.random.normal((2, 1, 3, 2, 2, 16), key=mx.random.key(0))
    fresh = decode(build_vae(TINY), second, [1, 1, 1])
    decode(vae, first, [1, 1, 1])
    assert mx.array_equal(decode(vae, second, [1, 1, 1]), fresh)


def test_later_latents_do_not_change_earlier_frames(vae):
    latents = mx.random.normal((1, 3, 2, 2, 16), key=mx.random.key(0))
    longer, shorter = decode(vae, latents, [1, 1, 1]), decode(vae, latents[:, :2], [1, 1])
    assert mx.array_equal(longer[:, :5], shorter)


def test_a_stream_does_not_take_latents_of_another_size(vae):
    state = StreamState()
    list(vae.decode(mx.zeros((1, 1, 2, 2, 16)), state))
    with pytest.raises(ValueError, match="new StreamState for every clip"):
        list(vae.decode(mx.zeros((1, 1, 2, 3, 16)), state))


def test_decoder_keeps_the_same_number_of_bytes_from_the_third_latent_on(vae):
    state, kept = StreamState(), []
    for _ in range(6):
        list(vae.decode(mx.zeros((1, 1, 2, 3, 16)), state))
        kept.append(state.nbytes())
    # Per latent pixel of the real VAE (width 96): 151,328 elements, of which 32 are the latent's own.
    assert kept[2:] == [(151_296 * TINY.decoder_dim // 96 + 32) * 6 * 4] * 4


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_memory_does_not_grow_with_the_clip(vae, direction):
    encoding = direction == "encode"
    chunk = mx.zeros((1, 4, 48, 48, 3) if encoding else (1, 1, 6, 6, 16))
    used = memory_in_use(vae, chunk, 8, encoding=encoding)
    # Allocations are rounded up, by a few kilobytes more or less; one leaked frame of the widest stage would
    # add 74 kB at every push, one of each layer half a megabyte.
    assert max(used[2:]) - used[2] <= 64_000
