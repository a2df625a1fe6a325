from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_video.latents.encode import encode_video
from mlx_video.models.vae.autoencoder import WanVAE
from tests.models.vae.tiny_vae import TINY, build_vae, largest_difference


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return build_vae(TINY)


def draw_frames(count: int) -> mx.array:
    return mx.random.uniform(-1, 1, (count, 16, 24, 3), key=mx.random.key(0))


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3)])
def test_frames_become_a_quarter_as_many_latents_and_the_first(vae, frames, latents):
    encoded = encode_video(vae, draw_frames(frames))
    assert encoded.shape == (16, latents, 2, 3)
    assert encoded.dtype == mx.float32


def test_chunks_of_any_length_give_what_the_whole_clip_gives(vae):
    frames = draw_frames(9)
    chunks = encode_video(vae, iter([frames[:2], frames[2:3], frames[3:]]))
    # Float32 sums in another order.
    assert largest_difference(chunks, encode_video(vae, frames)) <= 1e-5


def test_an_image_is_the_first_latent_of_every_clip_it_begins(vae):
    frames = draw_frames(5)
    assert mx.array_equal(encode_video(vae, frames[:1]), encode_video(vae, frames)[:, :1])


@pytest.mark.parametrize(("count", "nearest"), [(2, "1 or 5"), (6, "5 or 9"), (8, "5 or 9")])
def test_a_count_that_does_not_fill_the_last_latent_is_refused_with_the_nearest(vae, count, nearest):
    with pytest.raises(ValueError, match=rf"{count} frames: must be 4n\+1.*Nearest: {nearest}"):
        encode_video(vae, draw_frames(count))


def test_the_count_of_a_whole_clip_is_checked_before_any_work(vae, monkeypatch):
    monkeypatch.setattr(WanVAE, "encode", lambda *_: pytest.fail("frames were encoded"))
    with pytest.raises(ValueError, match="Nearest: 5 or 9"):
        encode_video(vae, draw_frames(7))


def test_no_frames_at_all_are_refused(vae):
    with pytest.raises(ValueError, match="0 frames"):
        encode_video(vae, [])


def test_sides_that_are_no_multiple_of_the_stride_are_refused(vae):
    with pytest.raises(ValueError, match="20x16, both sides must be multiples of 8x8"):
        encode_video(vae, mx.zeros((1, 16, 20, 3)))
    with pytest.raises(ValueError, match=r"expected \[F, H, W, 3\]"):
        encode_video(vae, mx.zeros((1, 3, 16, 24)))
