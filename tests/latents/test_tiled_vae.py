"""Tiles and whole frames give the same video and the same latents."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_video.events import TilesDecoded
from mlx_video.latents import decode, encode
from mlx_video.latents.decode import decode_chunks, decode_frames
from mlx_video.latents.encode import encode_chunks, encode_video
from mlx_video.latents.tiling import DECODER_STAGES, ENCODER_STAGES
from mlx_video.models.vae.autoencoder import WanVAE
from tests.models.vae.tiny_vae import TINY, TINY22, TINY_2X, build_vae, draw, largest_difference

pytestmark = pytest.mark.slow

# The same sums; a BLAS orders those of narrower frames differently in the last places.
ROUNDING = 1e-5


@pytest.fixture(scope="module", params=[TINY, TINY_2X, TINY22], ids=["2.1", "2.1 twice", "2.2"])
def vae(request) -> WanVAE:
    return build_vae(request.param)


def decoded(vae: WanVAE, latents: mx.array, **how) -> mx.array:
    return mx.concatenate(list(decode_frames(vae, latents, **how)))


def draw_clip(vae: WanVAE, frames: int, height: int, width: int) -> mx.array:
    """Frames of so many latent cells."""
    _, step_h, step_w = vae.config.stride
    return mx.clip(draw(frames, height * step_h, width * step_w, 3), -1, 1)


# Odd sizes. A strip longer than any halo, tiles with neighbours on both sides; and corners.
@pytest.mark.parametrize(
    ("frames", "height", "width", "tile"), [(2, 1, 37, 10), (1, 3, 5, 2), (5, 2, 1, 1), (3, 3, 2, 2)]
)
def test_tiles_decode_to_the_frames_of_the_whole(vae, frames, height, width, tile):
    latents = draw(vae.config.z_dim, frames, height, width)
    found = decoded(vae, latents, tile=tile)
    rows, columns = (vae.config.stride[1] * vae.config.output_scale * side for side in (height, width))
    assert found.shape == (4 * frames - 3, rows, columns, 3)
    assert largest_difference(found, decoded(vae, latents)) <= ROUNDING


@pytest.mark.parametrize(
    ("frames", "height", "width", "tile"), [(5, 1, 31, 11), (1, 3, 5, 2), (17, 1, 3, 2), (9, 3, 2, 2)]
)
def test_tiles_encode_to_the_latents_of_the_whole(vae, frames, height, width, tile):
    clip = draw_clip(vae, frames, height, width)
    found = encode_video(vae, clip, tile=tile)
    assert found.shape == (vae.config.z_dim, (frames + 3) // 4, height, width)
    assert largest_difference(found, encode_video(vae, clip)) <= ROUNDING


def test_tiles_without_halos_would_spoil_the_frames(monkeypatch):
    monkeypatch.setattr(decode, "DECODER_STAGES", [replace(s, convolutions=0) for s in DECODER_STAGES])
    vae, latents = build_vae(TINY), draw(16, 1, 1, 4)
    assert largest_difference(decoded(vae, latents, tile=2), decoded(vae, latents)) > 100 * ROUNDING


def test_tiles_without_halos_would_spoil_the_latents(monkeypatch):
    monkeypatch.setattr(encode, "ENCODER_STAGES", [replace(s, convolutions=0) for s in ENCODER_STAGES])
    vae = build_vae(TINY)
    clip = draw_clip(vae, 1, 1, 4)
    assert largest_difference(encode_video(vae, clip, tile=2), encode_video(vae, clip)) > 100 * ROUNDING


def test_tiled_frames_come_in_the_same_chunks_and_in_order_of_time(vae):
    latents = draw(vae.config.z_dim, 5, 1, 2)
    chunks = list(decode_frames(vae, latents, tile=1, latents_per_push=2))
    assert [len(chunk) for chunk in chunks] == [5, 8, 4]
    assert largest_difference(mx.concatenate(chunks), decoded(vae, latents)) <= ROUNDING


def test_tiles_tell_how_far_they_are_before_the_first_frames_come():
    vae, latents = build_vae(TINY), draw(16, 3, 1, 2)
    chunks = list(decode_chunks(vae, latents, tile=1))
    assert chunks[:6] == [TilesDecoded(done, 6) for done in range(1, 7)]
    assert [len(chunk) for chunk in chunks[6:]] == [1, 4, 4]


def test_a_tile_as_large_as_the_frame_is_the_whole_frame(monkeypatch):
    vae, latents = build_vae(TINY), draw(16, 2, 1, 2)
    monkeypatch.setattr(decode, "ScratchFile", lambda *_: pytest.fail("a temporary file was made"))
    assert mx.array_equal(decoded(vae, latents, tile=2), decoded(vae, latents))


def test_encoding_tells_how_far_it_is_with_and_without_tiles():
    vae = build_vae(TINY)
    clip = draw_clip(vae, 9, 1, 2)
    chunks = [clip[:1], clip[1:5], clip[5:]]
    assert list(encode_chunks(vae, chunks)) == [1, 5, 9]
    assert list(encode_chunks(vae, chunks, tile=1)) == [4, 9]


def test_chunks_of_any_length_are_encoded_tile_by_tile():
    vae = build_vae(TINY)
    clip = draw_clip(vae, 13, 1, 2)
    found = encode_video(vae, iter([clip[:6], clip[6:7], clip[7:]]), tile=1)
    assert largest_difference(found, encode_video(vae, clip)) <= ROUNDING


def test_a_wrong_number_of_frames_is_refused_before_tiles_are_encoded(monkeypatch):
    vae = build_vae(TINY)
    monkeypatch.setattr(WanVAE, "encode_features", lambda *_, **__: pytest.fail("frames were encoded"))
    with pytest.raises(ValueError, match="7 frames: must be 4n"):
        encode_video(vae, iter([draw_clip(vae, 7, 1, 2)]), tile=1)


def test_tiles_of_no_side_are_refused_before_any_work():
    vae = build_vae(TINY)
    with pytest.raises(ValueError, match="tiles of 0: both must be at least 1"):
        decode_frames(vae, draw(16, 1, 1, 2), tile=0)
