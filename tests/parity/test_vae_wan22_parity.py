"""Every part of the Wan2.2 VAE against the official code, random weights, float32 on the CPU."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import WAN22_LATENT_MEAN, WAN22_LATENT_STD, WAN22_VAE
from mlx_video.latents.decode import decode_frames, to_uint8
from mlx_video.latents.encode import encode_video
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.layers import Downsample, FrameAttention, ResidualBlock, Upsample
from mlx_video.models.vae.stream import StreamState
from mlx_video.models.vae.wan22 import (
    Decoder,
    DownStage,
    Encoder,
    UpStage,
    pack_pixels,
    unpack_pixels,
)
from tests.models.vae.tiny_vae import NETWORK, largest_difference
from tests.parity.official import wan_module
from tests.parity.official_vae import copy_weights, draw, randomise, run_official, run_ours, to_array, to_ours

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

# Different widths, so that neither half can be mistaken for the other.
ENCODER_WIDTH, DECODER_WIDTH, Z_DIM = 6, 8, 48
CONFIG = replace(WAN22_VAE, encoder_dim=ENCODER_WIDTH, decoder_dim=DECODER_WIDTH)
SHAPE = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0}


@pytest.fixture(scope="module")
def official():
    torch.set_num_threads(1)
    return wan_module("vae2_2")


# Leaves


def test_packing_of_pixels(official):
    x = draw(3, 2, 6, 8)
    packed = to_array(official.patchify(torch.tensor(x)[None], patch_size=2))
    assert np.array_equal(np.array(pack_pixels(to_ours(x))), packed)
    unpacked = to_array(official.unpatchify(torch.tensor(np.moveaxis(packed, -1, 1)), patch_size=2))
    assert np.array_equal(np.array(unpack_pixels(mx.array(packed))), unpacked)


@pytest.mark.parametrize("out_channels", [8, 12], ids=["identity", "shortcut"])
def test_residual_block(official, out_channels):
    theirs = randomise(official.ResidualBlock(8, out_channels))
    ours, x = copy_weights(ResidualBlock(8, out_channels), theirs), draw(8, 5, 4, 3)
    for sizes in ([1, 1, 1, 1, 1], [1, 4]):
        assert largest_difference(run_ours(ours, x, sizes), run_official(theirs, x, sizes)) <= NETWORK


def test_attention_block(official):
    theirs = randomise(official.AttentionBlock(16))
    ours, x = copy_weights(FrameAttention(16), theirs), draw(16, 2, 5, 4)
    with torch.no_grad():
        expected = to_array(theirs(torch.tensor(x)[None]))
    assert largest_difference(ours(to_ours(x), StreamState()), expected) <= NETWORK


@pytest.mark.parametrize("mode", ["upsample2d", "upsample3d"])
@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [1, 3], [1]], ids=str)
def test_upsampling_keeps_its_channels(official, mode, sizes):
    theirs = randomise(official.Resample(8, mode))
    ours = copy_weights(Upsample(8, 8, doubles_time=mode == "upsample3d"), theirs)
    x = draw(8, sum(sizes), 3, 4)
    assert largest_difference(run_ours(ours, x, sizes), run_official(theirs, x, sizes)) <= NETWORK


@pytest.mark.parametrize("mode", ["downsample2d", "downsample3d"])
@pytest.mark.parametrize("sizes", [[1, 2, 2], [1, 4], [1]], ids=str)
def test_downsampling(official, mode, sizes):
    theirs = randomise(official.Resample(8, mode))
    ours = copy_weights(Downsample(8, halves_time=mode == "downsample3d"), theirs)
    x = draw(8, sum(sizes), 6, 4)
    assert largest_difference(run_ours(ours, x, sizes), run_official(theirs, x, sizes)) <= NETWORK


# Stages with the ways around them; new layers of ours have zero weights


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [1, 3], [1]], ids=str)
@pytest.mark.parametrize(
    ("channels", "time", "space"),
    [((8, 8), True, True), ((8, 4), False, True), ((8, 4), False, False)],
    ids=["first and second", "third", "last"],
)
def test_upsampling_stage(official, channels, time, space, sizes):
    theirs = randomise(official.Up_ResidualBlock(*channels, 0.0, 3, temperal_upsample=time, up_flag=space))
    ours = copy_weights(UpStage(*channels, doubles_space=space, doubles_time=time), theirs)
    x = draw(channels[0], sum(sizes), 3, 4)
    expected = run_official(theirs, x, sizes, tells_first=True)
    assert largest_difference(run_ours(ours, x, sizes), expected) <= NETWORK


@pytest.mark.parametrize("sizes", [[1, 2, 2], [1, 4], [1]], ids=str)
@pytest.mark.parametrize(
    ("channels", "time", "space"),
    [((6, 6), False, True), ((6, 12), True, True), ((6, 6), False, False)],
    ids=["first", "second and third", "last"],
)
def test_downsampling_stage(official, channels, time, space, sizes):
    theirs = official.Down_ResidualBlock(*channels, 0.0, 2, temperal_downsample=time, down_flag=space)
    ours = DownStage(*channels, halves_space=space, halves_time=time)
    copy_weights(ours, randomise(theirs))
    x = draw(channels[0], sum(sizes), 6, 4)
    assert largest_difference(run_ours(ours, x, sizes), run_official(theirs, x, sizes)) <= NETWORK


@pytest.mark.parametrize("sizes", [[1, 1, 1], [1, 2]], ids=str)
@pytest.mark.parametrize(("channels", "time"), [((8, 8), True), ((8, 4), False)], ids=["equal", "half"])
def test_repeated_way_around_alone(official, channels, time, sizes):
    theirs = official.DupUp3D(*channels, factor_t=2 if time else 1, factor_s=2)
    ours, x = UpStage(*channels, doubles_space=True, doubles_time=time), draw(channels[0], sum(sizes), 3, 4)
    parts = torch.split(torch.tensor(x)[None], sizes, dim=2)
    expected = torch.cat([theirs(part, first_chunk=index == 0) for index, part in enumerate(parts)], dim=2)
    assert np.array_equal(np.array(run_ours(ours, x, sizes)), to_array(expected))


@pytest.mark.parametrize("sizes", [[1, 2, 2], [1, 4]], ids=str)
@pytest.mark.parametrize(("channels", "time"), [((6, 6), False), ((6, 12), True)], ids=["equal", "double"])
def test_averaged_way_around_alone(official, channels, time, sizes):
    theirs = official.AvgDown3D(*channels, factor_t=2 if time else 1, factor_s=2)
    ours, x = DownStage(*channels, halves_space=True, halves_time=time), draw(channels[0], sum(sizes), 6, 4)
    expected = torch.cat([theirs(part) for part in torch.split(torch.tensor(x)[None], sizes, dim=2)], dim=2)
    # Sums of four numbers in another order.
    assert largest_difference(run_ours(ours, x, sizes), to_array(expected)) <= 1e-6


# Networks


@pytest.mark.parametrize("pushes", [[1], [1, 1], [1, 2], [3], [1] * 5, [2, 2, 1], [5]], ids=str)
def test_decoder(official, pushes):
    theirs = official.Decoder3d(
        dim=DECODER_WIDTH, z_dim=Z_DIM, temperal_upsample=[True, True, False], **SHAPE
    )
    ours, x = copy_weights(Decoder(DECODER_WIDTH, Z_DIM), randomise(theirs)), draw(Z_DIM, sum(pushes), 2, 3)
    expected = run_official(theirs, x, [1] * sum(pushes), tells_first=True)
    assert largest_difference(run_ours(ours, x, pushes), expected) <= NETWORK


@pytest.mark.parametrize("pushes", [[1], [1, 4], [5], [2, 7], [1, 4, 4, 4, 4], [17]], ids=str)
def test_encoder(official, pushes):
    flags = {"temperal_downsample": [False, True, True]}
    theirs = official.Encoder3d(dim=ENCODER_WIDTH, z_dim=2 * Z_DIM, **flags, **SHAPE)
    ours = copy_weights(Encoder(ENCODER_WIDTH, 2 * Z_DIM), randomise(theirs))
    x = draw(12, sum(pushes), 8, 16)
    expected = run_official(theirs, x, [1] + [4] * (sum(pushes) // 4))
    assert largest_difference(run_ours(ours, x, pushes), expected) <= NETWORK


@pytest.fixture(scope="module")
def pair(official):
    """The official VAE and ours, same weights."""
    widths = {"dim": ENCODER_WIDTH, "dec_dim": DECODER_WIDTH, "z_dim": Z_DIM}
    theirs = randomise(official.WanVAE_(**widths, temperal_downsample=[False, True, True], **SHAPE))
    return theirs, copy_weights(WanVAE(CONFIG), theirs)


def official_scale() -> list:
    return [torch.tensor(CONFIG.latent_mean), 1 / torch.tensor(CONFIG.latent_std)]


def test_statistics_of_the_latents(official, monkeypatch):
    monkeypatch.setattr(official, "_video_vae", lambda **_: torch.nn.Identity())
    mean, inverse_std = official.Wan2_2_VAE(device="cpu").scale
    assert np.array_equal(mean.numpy(), np.float32(WAN22_LATENT_MEAN))
    assert np.array_equal((1 / torch.tensor(WAN22_LATENT_STD)).numpy(), inverse_std.numpy())


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("latents_per_push", [1, 2, 5])
def test_every_decoded_frame(pair, frames, latents_per_push):
    theirs, ours = pair
    latents = draw(Z_DIM, frames, 2, 3)
    with torch.no_grad():
        video = theirs.decode(torch.tensor(latents)[None], official_scale())[0].permute(1, 2, 3, 0)
    video = video.clamp(-1, 1).numpy()
    pieces = list(decode_frames(ours, mx.array(latents), latents_per_push=latents_per_push))
    found = mx.concatenate(pieces)
    assert found.shape == video.shape == (4 * frames - 3, 32, 48, 3)
    assert largest_difference(found, video) <= NETWORK
    expected_bytes = ((video + 1) / 2 * 255).astype(np.uint8)
    # A float32 difference may fall on either side of a whole number, never further.
    assert np.abs(to_uint8(found).astype(int) - expected_bytes).max() <= 1
    assert expected_bytes.std() > 20


@pytest.mark.parametrize("latents", [1, 2, 5])
def test_encoded_clip(pair, latents):
    theirs, ours = pair
    frames = np.clip(draw(3, 4 * latents - 3, 32, 48), -1, 1)
    with torch.no_grad():
        expected = theirs.encode(torch.tensor(frames)[None], official_scale())[0].numpy()
    found = encode_video(ours, to_ours(frames)[0])
    assert found.shape == (Z_DIM, latents, 2, 3)
    assert largest_difference(found, expected) <= NETWORK
