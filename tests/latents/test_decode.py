"""Latents become frames chunk by chunk: the same whatever the chunks, within the range of pixels."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.latents import decode
from mlx_video.latents.decode import (
    ONE_BY_ONE,
    PAIRS,
    FrameStream,
    choose_pace,
    decode_frames,
    denormalise,
    to_uint8,
    to_uint8_rounded,
)
from mlx_video.latents.encode import normalise
from mlx_video.models.dispatch import Limits
from mlx_video.models.vae.autoencoder import WanVAE
from tests.models.vae.tiny_vae import TINY, build_vae, largest_difference


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return build_vae(TINY)


def draw_latents(frames: int) -> mx.array:
    return mx.random.normal((16, frames, 2, 3), key=mx.random.key(0))


def test_first_chunk_has_one_frame_and_the_others_four(vae):
    chunks = list(decode_frames(vae, draw_latents(4)))
    assert [chunk.shape for chunk in chunks] == [(1, 16, 24, 3), *[(4, 16, 24, 3)] * 3]
    assert all(chunk.dtype == mx.float32 for chunk in chunks)


def test_more_latents_per_push_give_fewer_chunks_and_the_same_frames(vae):
    latents = draw_latents(5)
    one, two = list(decode_frames(vae, latents)), list(decode_frames(vae, latents, latents_per_push=2))
    assert [len(chunk) for chunk in two] == [5, 8, 4]
    # Float32 sums in another order.
    assert largest_difference(mx.concatenate(two), mx.concatenate(one)) <= 1e-5


def test_latents_that_come_little_by_little_give_the_same_frames(vae):
    latents, stream = draw_latents(7), FrameStream(vae)
    parts = [latents[:, start:stop] for start, stop in ((0, 3), (3, 4), (4, 7))]
    chunks = [chunk for part in parts for chunk in stream.decode(part)]
    expected = list(decode_frames(vae, latents))
    assert [chunk.shape for chunk in chunks] == [chunk.shape for chunk in expected]
    assert mx.array_equal(mx.concatenate(chunks), mx.concatenate(expected))


def test_frames_are_clamped_to_the_range_of_pixels(vae):
    frames = mx.concatenate(list(decode_frames(vae, 30 * draw_latents(2))))
    assert frames.max().item() == 1.0
    assert frames.min().item() == -1.0


def test_decoding_the_same_latents_twice_gives_the_same_frames(vae):
    latents = draw_latents(3)
    runs = [mx.concatenate(list(decode_frames(vae, latents))) for _ in range(2)]
    assert mx.array_equal(*runs)


def test_two_clips_can_be_decoded_in_turns(vae):
    first, second = draw_latents(3), -draw_latents(3)
    in_turns = [chunks for pair in zip(decode_frames(vae, first), decode_frames(vae, second), strict=True)
                for chunks in pair]  # fmt: skip
    assert mx.array_equal(mx.concatenate(in_turns[::2]), mx.concatenate(list(decode_frames(vae, first))))


def test_latents_of_another_shape_are_refused_before_any_work(vae):
    with pytest.raises(ValueError, match=r"\[48, 1, 2, 3\], expected \[16, T, H, W\]"):
        decode_frames(vae, mx.zeros((48, 1, 2, 3)))
    with pytest.raises(ValueError, match="latents_per_push is 0"):
        decode_frames(vae, draw_latents(1), latents_per_push=0)


def test_normalising_undoes_denormalising():
    latents = mx.random.normal((2, 3, 16), key=mx.random.key(0))
    # Two roundings of numbers up to about 5.
    assert mx.allclose(normalise(denormalise(latents, TINY), TINY), latents, atol=2e-6)


def test_zero_latents_stand_for_the_means():
    assert mx.array_equal(denormalise(mx.zeros((16,)), TINY), mx.array(TINY.latent_mean))


def test_bytes_are_cut_off_not_rounded():
    frames = mx.array([-1.0, -0.996, 0.0, 0.999, 1.0])
    # 127.5 and 254.87 lose their fraction; -0.996 is 0.51 of a step above black.
    expected = np.array([0, 0, 127, 254, 255], np.uint8)
    np.testing.assert_array_equal(to_uint8(frames), expected)
    assert to_uint8(frames).dtype == np.uint8


def test_bytes_of_a_single_picture_are_rounded():
    frames = mx.array([-1.0, -0.996, 0.0, 0.999, 1.0])
    expected = np.array([0, 1, 128, 255, 255], np.uint8)
    np.testing.assert_array_equal(to_uint8_rounded(frames), expected)
    assert to_uint8_rounded(frames).dtype == np.uint8


@pytest.mark.parametrize(
    ("height", "width", "tile", "gpu", "pace"),
    [
        (44, 80, None, Limits(pairs_latents=True), PAIRS),
        (44, 80, 100, Limits(pairs_latents=True), PAIRS),
        (44, 80, 32, Limits(pairs_latents=True), ONE_BY_ONE),
        (44, 80, None, Limits(), ONE_BY_ONE),
        (44, 80, None, Limits(pairs_latents=True, winograd=False), ONE_BY_ONE),
        (44, 80, None, None, ONE_BY_ONE),
        (60, 104, None, Limits(pairs_latents=True), ONE_BY_ONE),  # 6,240 positions are enough
        (30, 52, None, Limits(pairs_latents=True), ONE_BY_ONE),  # and 3,120 are too few
    ],
)
def test_latents_go_in_pairs_where_that_makes_them_large_enough(height, width, tile, gpu, pace):
    assert choose_pace(height, width, tile, gpu) == pace


def test_every_way_of_cutting_is_handed_on(vae, monkeypatch):
    asked = {"tile": 3, "latents_per_push": 2, "parts": (1, 2), "scratch_folder": Path("scratch")}
    told = {}
    monkeypatch.setattr(decode, "decode_chunks", lambda vae, latents, **how: told.update(how) or iter(()))
    assert list(decode_frames(vae, draw_latents(1), **asked)) == []
    assert told == asked


def test_pairs_give_the_frames_of_latents_one_by_one(vae):
    latents = draw_latents(5)
    pairs = decode_frames(vae, latents, latents_per_push=PAIRS.latents_per_push, parts=PAIRS.parts)
    one_by_one = mx.concatenate(list(decode_frames(vae, latents)))
    assert largest_difference(mx.concatenate(list(pairs)), one_by_one) <= 1e-5
