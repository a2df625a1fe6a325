"""Predicted peaks against those that MLX counts, on the CPU backend."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from mlx_video.config import WAN21_VAE, WAN22_VAE, VAEConfig
from mlx_video.files.scratch import ScratchFile
from mlx_video.latents.decode import PAIRS, Pace, decode_frames
from mlx_video.latents.encode import encode_chunks
from mlx_video.latents.tiling import tile_for_mode, tile_sides
from mlx_video.models.dispatch import Limits
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.winograd import band_bytes, winograd_bytes
from mlx_video.planning.vae_layers import Frame, causal_conv, upsampling
from mlx_video.planning.vae_memory import decode_peak_bytes, encode_peak_bytes, scratch_bytes
from tests.fixtures.measured_peak import measured
from tests.models.vae.tiny_vae import TINY, TINY22, TINY_2X, build_vae, draw

pytestmark = pytest.mark.slow

# Wide enough for the convolutions of the real widths, narrow enough to be quick.
NARROW21 = VAEConfig(encoder_dim=32, decoder_dim=32)
NARROW_2X = replace(NARROW21, output_scale=2)
NARROW22 = replace(WAN22_VAE, encoder_dim=32, decoder_dim=32)
BUDGET = 4_000_000_000


def random_vae(config: VAEConfig) -> WanVAE:
    vae = WanVAE(config)
    vae.update(tree_map(lambda p: mx.random.normal(p.shape) * 0.02, vae.parameters()))
    mx.eval(vae.parameters())
    return vae


def decode_and_drop(vae: WanVAE, latents: mx.array, **how) -> None:
    for frames in decode_frames(vae, latents, **how):
        del frames


def encode_and_drop(vae: WanVAE, height: int, width: int, **how) -> None:
    sides = (height * vae.config.stride[1], width * vae.config.stride[2])
    for _ in encode_chunks(vae, (mx.zeros((count, *sides, 3)) for count in (1, 4, 4)), **how):
        pass


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("config", "height", "width", "tile", "per_push"),
    [
        (NARROW21, 8, 6, None, 1),
        (NARROW22, 3, 4, None, 3),
        (NARROW22, 1, 30, 6, 1),
        (NARROW_2X, 8, 6, None, 1),
        (NARROW_2X, 1, 30, 6, 1),
    ],
    ids=["2.1, whole", "2.2, pushes of three", "2.2, tiles", "2.1 twice, whole", "2.1 twice, tiles"],
)
def test_prediction_of_decoding_is_within_fifteen_percent(config, height, width, tile, per_push):
    vae = random_vae(replace(config, encoder_dim=None))
    latents = draw(config.z_dim, 3 * per_push, height, width)
    mx.eval(latents)
    found = measured(lambda: decode_and_drop(vae, latents, tile=tile, latents_per_push=per_push))
    predicted = decode_peak_bytes(vae.config, height, width, tile=tile, pace=Pace(per_push))
    assert predicted == pytest.approx(found, rel=0.15)


def test_prediction_of_decoding_in_pairs_is_within_fifteen_percent():
    vae, latents = random_vae(replace(NARROW22, encoder_dim=None)), draw(48, 6, 4, 6)
    mx.eval(latents)
    how = {"latents_per_push": PAIRS.latents_per_push, "parts": PAIRS.parts}
    found = measured(lambda: decode_and_drop(vae, latents, **how))
    assert decode_peak_bytes(vae.config, 4, 6, pace=PAIRS) == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize(
    ("config", "height", "width", "tile"),
    [(NARROW22, 6, 5, None), (NARROW21, 1, 24, 8)],
    ids=["2.2, whole", "2.1, tiles"],
)
def test_prediction_of_encoding_is_within_fifteen_percent(config, height, width, tile):
    vae = random_vae(replace(config, decoder_dim=None))
    found = measured(lambda: encode_and_drop(vae, height, width, tile=tile))
    predicted = encode_peak_bytes(vae.config, height, width, tile=tile)
    assert predicted == pytest.approx(found, rel=0.15)


def test_there_are_tiles_that_decode_wan21_at_1280x720_within_four_gigabytes():
    weights = 4 * 73_295_603
    fitting = [
        side
        for side in tile_sides(90, 160)
        if decode_peak_bytes(WAN21_VAE, 90, 160, tile=side) + weights < BUDGET
    ]
    assert fitting[0] == 80
    assert decode_peak_bytes(WAN21_VAE, 90, 160) > 3 * BUDGET


@pytest.mark.parametrize("config", [WAN21_VAE, WAN22_VAE], ids=["2.1", "2.2"])
def test_smaller_tiles_take_less_memory(config):
    height, width = 720 // config.stride[1], 1280 // config.stride[2]
    # From 20 cells on it is no longer the tiles that take most.
    sides = [side for side in tile_sides(height, width) if side >= 20]
    for predict in (decode_peak_bytes, encode_peak_bytes):
        whole = predict(config, height, width)
        peaks = [predict(config, height, width, tile=side) for side in sides]
        assert peaks[0] <= whole
        assert all(smaller <= 1.02 * larger for larger, smaller in pairwise(peaks))


@pytest.mark.parametrize("config", [WAN21_VAE, WAN22_VAE], ids=["2.1", "2.2"])
def test_modes_of_smaller_tiles_take_less_memory(config):
    height, width = 720 // config.stride[1], 1280 // config.stride[2]
    modes = ["none", "conservative", "default", "aggressive"]
    sides = [tile_for_mode(mode, config.stride[1]) for mode in modes]
    peaks = [decode_peak_bytes(config, height, width, tile=side) for side in sides]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 3 * peaks[-1]


@pytest.mark.parametrize("config", [TINY, TINY_2X, TINY22], ids=["2.1", "2.1 twice", "2.2"])
def test_the_temporary_file_is_not_larger_than_told(config, monkeypatch):
    sizes = []
    put = ScratchFile.put

    def measured_put(self, array):
        stored = put(self, array)
        sizes.append(stored.offset + array.nbytes)
        return stored

    monkeypatch.setattr(ScratchFile, "put", measured_put)
    vae = build_vae(config)
    decode_and_drop(vae, draw(config.z_dim, 2, 1, 2), tile=1)
    assert 0 < sizes[-1] <= scratch_bytes(config, 2, 1, 2)
    sizes.clear()
    encode_and_drop(vae, 1, 2, tile=1)
    assert 0 < sizes[-1] <= scratch_bytes(config, 3, 1, 2, encodes=True)


def test_a_gpus_scratch_is_planned_once_and_shrinks_with_tiles():
    size = (44, 80)  # 704×1280 pixels
    added = decode_peak_bytes(WAN22_VAE, *size, gpu=Limits()) - decode_peak_bytes(WAN22_VAE, *size)
    # It stands in for what the CPU's convolution needs.
    assert 0.5 * winograd_bytes(352, 640, 512, 256) < added < winograd_bytes(352, 640, 512, 256)
    # The stage that decides for Wan2.1 has too few channels.
    assert decode_peak_bytes(WAN21_VAE, *size, gpu=Limits()) == decode_peak_bytes(WAN21_VAE, *size)
    whole = decode_peak_bytes(WAN22_VAE, *size, gpu=Limits())
    tiled = decode_peak_bytes(WAN22_VAE, *size, tile=16, gpu=Limits())
    assert tiled < whole / 2


def test_one_convolution_by_winograds_method_counts_its_scratch_and_four_results():
    frame = Frame(352, 640, gpu=Limits())
    one = frame.nbytes(1)
    plain, counted = (causal_conv(replace(frame, gpu=on), 512, 256) for on in (None, Limits()))
    # Norm or SiLU beside its result, and one frame that is no longer kept.
    assert counted.working == 2 * 512 * one + winograd_bytes(352, 640, 512, 256) + 4 * 256 * one
    assert (counted.kept, counted.given) == (plain.kept, plain.given)
    # Too few channels, and too few pixels: as anywhere.
    for narrow in ((Frame(352, 640, Limits()), 96, 96), (Frame(44, 80, Limits()), 1024, 1024)):
        frame, into, out = narrow
        assert causal_conv(frame, into, out) == causal_conv(replace(frame, gpu=None), into, out)


def test_joined_taps_and_repeated_pixels_are_planned_by_their_bands():
    joins = Limits(joins_taps=True)
    frame = Frame(480, 832, joins)
    working = causal_conv(frame, 96, 96).working
    assert working == 5 * frame.nbytes(96) + band_bytes(480, 832, 288, 96)
    # Not much more than the twenty-seven products of a CPU.
    assert working < 1.3 * causal_conv(replace(frame, gpu=None), 96, 96).working
    frame = Frame(240, 416, Limits(repeats_pixels=True))
    repeated, by_parity = (
        upsampling(replace(frame, gpu=gpu), 192, 96, doubles_time=False) for gpu in (frame.gpu, None)
    )
    assert repeated.working == band_bytes(480, 832, 192, 96) + 3 * 4 * frame.nbytes(96)
    assert repeated.working < by_parity.working
