"""Every part of the Wan2.1 VAE against the official code, random weights, float32 on the CPU."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import VAEConfig
from mlx_video.latents.decode import decode_frames, denormalise, to_uint8
from mlx_video.latents.encode import encode_video
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.layers import (
    CausalConv3d,
    Downsample,
    FrameAttention,
    ResidualBlock,
    RMSNorm,
    Upsample,
)
from mlx_video.models.vae.stream import StreamState
from mlx_video.models.vae.wan21 import Decoder, Encoder
from tests.models.vae.tiny_vae import NETWORK, decode, largest_difference
from tests.parity.official import wan_module
from tests.parity.official_vae import copy_weights, draw, randomise, run_official, run_ours, to_array, to_ours

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

WIDTH, Z_DIM = 8, 16
CONFIG = VAEConfig(encoder_dim=WIDTH, decoder_dim=WIDTH)
SHAPE = {"z_dim": Z_DIM, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0}


@pytest.fixture(scope="module")
def official():
    torch.set_num_threads(1)
    return wan_module("vae2_1")


# Leaves


@pytest.mark.parametrize("channels", [6, 32], ids=["one convolution per tap", "shifted products"])
def test_causal_convolution(official, channels):
    theirs = randomise(official.CausalConv3d(channels, 10, 3, padding=1))
    ours, x = copy_weights(CausalConv3d(channels, 10), theirs), draw(channels, 4, 5, 6)
    with torch.no_grad():
        expected = to_array(theirs(torch.tensor(x)[None]))
    for sizes in ([4], [1, 1, 1, 1], [1, 3]):
        assert largest_difference(run_ours(ours, x, sizes), expected) <= NETWORK


def test_norm(official):
    theirs, x = randomise(official.RMS_norm(12, images=False)), draw(12, 2, 3, 4)
    ours = copy_weights(RMSNorm(12), theirs)
    x[:, 0, 0, 0] = 0  # stays zero
    x[:, 0, 0, 1] *= 1e-8  # still far above the floor of the norm
    with torch.no_grad():
        expected = to_array(theirs(torch.tensor(x)[None]))
    assert largest_difference(ours(to_ours(x)), expected) <= NETWORK


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
def test_upsampling(official, mode, sizes):
    theirs = randomise(official.Resample(8, mode))
    ours = copy_weights(Upsample(8, 4, doubles_time=mode == "upsample3d"), theirs)
    x = draw(8, sum(sizes), 3, 4)
    assert largest_difference(run_ours(ours, x, sizes), run_official(theirs, x, sizes)) <= NETWORK


@pytest.mark.parametrize("mode", ["downsample2d", "downsample3d"])
@pytest.mark.parametrize("sizes", [[1, 2, 2], [1, 4], [1]], ids=str)
def test_downsampling(official, mode, sizes):
    theirs = randomise(official.Resample(8, mode))
    ours = copy_weights(Downsample(8, halves_time=mode == "downsample3d"), theirs)
    x = draw(8, sum(sizes), 6, 4)
    assert largest_difference(run_ours(ours, x, sizes), run_official(theirs, x, sizes)) <= NETWORK


# Networks


@pytest.mark.parametrize("pushes", [[1], [1, 1], [1] * 3, [1, 2], [3], [1] * 5, [2, 2, 1], [5]], ids=str)
def test_decoder(official, pushes):
    theirs = randomise(official.Decoder3d(dim=WIDTH, temperal_upsample=[True, True, False], **SHAPE))
    ours, x = copy_weights(Decoder(WIDTH, Z_DIM), theirs), draw(Z_DIM, sum(pushes), 2, 3)
    expected = run_official(theirs, x, [1] * sum(pushes))
    assert largest_difference(run_ours(ours, x, pushes), expected) <= NETWORK


@pytest.mark.parametrize("pushes", [[1], [1, 2], [1, 1, 1]], ids=str)
def test_a_decoder_that_doubles_the_size(official, pushes):
    shape = SHAPE | {"dim": WIDTH, "temperal_upsample": [True, True, False]}
    theirs = official.Decoder3d(**shape)
    theirs.head[2] = official.CausalConv3d(WIDTH, 12, 3, padding=1)
    randomise(theirs)
    ours, x = WanVAE(replace(CONFIG, output_scale=2, encoder_dim=None)), draw(Z_DIM, sum(pushes), 2, 3)
    copy_weights(ours.decoder, theirs)
    ours.conv2.weight = mx.eye(Z_DIM).reshape(ours.conv2.weight.shape)  # passes everything on as it is
    channels = torch.tensor(run_official(theirs, x, [1] * sum(pushes)))[0].permute(0, 3, 1, 2)
    expected = torch.nn.functional.pixel_shuffle(channels, 2).permute(0, 2, 3, 1)[None]
    assert largest_difference(decode(ours, to_ours(x), pushes), expected.numpy()) <= NETWORK


@pytest.mark.parametrize("pushes", [[1], [1, 4], [5], [1, 4, 4], [2, 7], [1, 4, 4, 4, 4], [17]], ids=str)
def test_encoder(official, pushes):
    theirs = randomise(official.Encoder3d(dim=WIDTH, temperal_downsample=[False, True, True], **SHAPE))
    ours, x = copy_weights(Encoder(WIDTH, Z_DIM), theirs), draw(3, sum(pushes), 16, 24)
    expected = run_official(theirs, x, [1] + [4] * (sum(pushes) // 4))
    assert largest_difference(run_ours(ours, x, pushes), expected) <= NETWORK


@pytest.fixture(scope="module")
def pair(official):
    """The official VAE and ours, same weights."""
    shape = SHAPE | {"dim": WIDTH, "temperal_downsample": [False, True, True]}
    theirs = randomise(official.WanVAE_(**shape))
    return theirs, copy_weights(WanVAE(CONFIG), theirs)


def official_scale() -> list:
    return [torch.tensor(CONFIG.latent_mean), 1 / torch.tensor(CONFIG.latent_std)]


@torch.no_grad()
def official_decode(vae, latents: np.ndarray):
    """[F, H, W, 3], not clamped."""
    return vae.decode(torch.tensor(latents)[None], official_scale())[0].permute(1, 2, 3, 0)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("latents_per_push", [1, 2, 5])
def test_decoded_clip(pair, frames, latents_per_push):
    theirs, ours = pair
    latents = draw(Z_DIM, frames, 2, 3)
    expected = official_decode(theirs, latents)
    state, normal = StreamState(), denormalise(to_ours(latents), CONFIG)
    pushes = [normal[:, start : start + latents_per_push] for start in range(0, frames, latents_per_push)]
    found = mx.concatenate([frame for push in pushes for frame in ours.decode(push, state)], axis=1)[0]
    assert found.shape == (4 * frames - 3, 16, 24, 3)
    assert largest_difference(found, expected.numpy()) <= NETWORK


@pytest.mark.parametrize("frames", [1, 3, 21])
def test_every_decoded_frame_as_bytes(pair, frames):
    theirs, ours = pair
    latents = draw(Z_DIM, frames, 2, 1)
    video = official_decode(theirs, latents).clamp(-1, 1)
    expected = ((video + 1) / 2 * 255).to(torch.uint8).numpy()
    found = np.concatenate([to_uint8(piece) for piece in decode_frames(ours, mx.array(latents))])
    assert found.shape == expected.shape == (4 * frames - 3, 16, 8, 3)
    per_frame = np.abs(found.astype(int) - expected).max(axis=(1, 2, 3))
    # A float32 difference may fall on either side of a whole number, never further.
    assert per_frame.max() <= 1
    assert expected.std() > 20


@pytest.mark.parametrize("latents", [1, 2, 3, 5])
def test_encoded_clip(pair, latents):
    theirs, ours = pair
    frames = np.clip(draw(3, 4 * latents - 3, 16, 24), -1, 1)
    with torch.no_grad():
        expected = theirs.encode(torch.tensor(frames)[None], official_scale())[0].numpy()
    found = encode_video(ours, to_ours(frames)[0])
    assert found.shape == (Z_DIM, latents, 2, 3)
    assert largest_difference(found, expected) <= NETWORK
