"""The tensors of both video autoencoders: names as the official code spells them, and shapes."""

from __future__ import annotations

from itertools import pairwise

from mlx_video.config import WAN22_VAE, VAEConfig
from mlx_video.models.vae.halves import LAST_STAGE, decoder_widths, encoder_widths
from mlx_video.models.vae.wan21 import PIXEL_CHANNELS
from mlx_video.models.vae.wan22 import PACKED_CHANNELS
from mlx_video.weights.rules import Shape


def vae_tensors(config: VAEConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a VAE; a half whose width is None is left out.

    Source: Wan2.1 wan/modules/vae.py and Wan2.2 wan/modules/vae2_2.py, WanVAE_, Encoder3d, Decoder3d.
    """
    encoder, decoder = _wan21_encoder, _wan21_decoder
    if config.z_dim == WAN22_VAE.z_dim:
        encoder, decoder = _wan22_encoder, _wan22_decoder
    tensors: dict[str, Shape] = {}
    if config.encoder_dim is not None:
        tensors |= encoder(config.encoder_dim, config.z_dim)
    if config.decoder_dim is not None:
        tensors |= decoder(config.decoder_dim, config.z_dim)
        if config.output_scale != 1:
            tensors |= _head("decoder", config.decoder_dim, PIXEL_CHANNELS * config.output_scale**2)
    return tensors


def _wan21_encoder(width: int, z_dim: int) -> dict[str, Shape]:
    widths = encoder_widths(width)
    tensors = _conv("encoder.conv1", width, PIXEL_CHANNELS, 3, 3, 3)
    index = 0
    for stage, (into, out) in enumerate(pairwise(widths)):
        for block in range(2):
            tensors |= _residual(f"encoder.downsamples.{index}", out if block else into, out)
            index += 1
        if stage < LAST_STAGE:
            tensors |= _downsampling(f"encoder.downsamples.{index}", out, halves_time=stage > 0)
            index += 1
    return tensors | _encoder_end(widths[-1], z_dim)


def _wan21_decoder(width: int, z_dim: int) -> dict[str, Shape]:
    widths = decoder_widths(width)
    tensors = _decoder_start(widths[0], z_dim)
    index = 0
    for stage, (into, out) in enumerate(pairwise(widths)):
        into = into if stage == 0 else into // 2  # each upsampling halves the channels
        for block in range(3):
            tensors |= _residual(f"decoder.upsamples.{index}", out if block else into, out)
            index += 1
        if stage < LAST_STAGE:
            tensors |= _upsampling(f"decoder.upsamples.{index}", out, out // 2, doubles_time=stage < 2)
            index += 1
    return tensors | _head("decoder", width, PIXEL_CHANNELS)


def _wan22_encoder(width: int, z_dim: int) -> dict[str, Shape]:
    widths = encoder_widths(width)
    tensors = _conv("encoder.conv1", width, PACKED_CHANNELS, 3, 3, 3)
    for stage, (into, out) in enumerate(pairwise(widths)):
        path = f"encoder.downsamples.{stage}.downsamples"
        for block in range(2):
            tensors |= _residual(f"{path}.{block}", out if block else into, out)
        if stage < LAST_STAGE:
            tensors |= _downsampling(f"{path}.2", out, halves_time=stage > 0)
    return tensors | _encoder_end(widths[-1], z_dim)


def _wan22_decoder(width: int, z_dim: int) -> dict[str, Shape]:
    widths = decoder_widths(width)
    tensors = _decoder_start(widths[0], z_dim)
    for stage, (into, out) in enumerate(pairwise(widths)):
        path = f"decoder.upsamples.{stage}.upsamples"
        for block in range(3):
            tensors |= _residual(f"{path}.{block}", out if block else into, out)
        if stage < LAST_STAGE:
            tensors |= _upsampling(f"{path}.3", out, out, doubles_time=stage < 2)
    return tensors | _head("decoder", width, PACKED_CHANNELS)


def _decoder_start(width: int, z_dim: int) -> dict[str, Shape]:
    return {
        **_conv("conv2", z_dim, z_dim, 1, 1, 1),
        **_conv("decoder.conv1", width, z_dim, 3, 3, 3),
        **_middle("decoder", width),
    }


def _encoder_end(width: int, z_dim: int) -> dict[str, Shape]:
    return {
        **_middle("encoder", width),
        **_head("encoder", width, 2 * z_dim),
        **_conv("conv1", 2 * z_dim, 2 * z_dim, 1, 1, 1),
    }


def _conv(path: str, out: int, into: int, *kernel: int) -> dict[str, Shape]:
    return {f"{path}.weight": (out, into, *kernel), f"{path}.bias": (out,)}


def _residual(path: str, into: int, out: int) -> dict[str, Shape]:
    tensors: dict[str, Shape] = {
        f"{path}.residual.0.gamma": (into, 1, 1, 1),
        **_conv(f"{path}.residual.2", out, into, 3, 3, 3),
        f"{path}.residual.3.gamma": (out, 1, 1, 1),
        **_conv(f"{path}.residual.6", out, out, 3, 3, 3),
    }
    return tensors if into == out else tensors | _conv(f"{path}.shortcut", out, into, 1, 1, 1)


def _downsampling(path: str, width: int, *, halves_time: bool) -> dict[str, Shape]:
    tensors = _conv(f"{path}.resample.1", width, width, 3, 3)
    return tensors | _conv(f"{path}.time_conv", width, width, 3, 1, 1) if halves_time else tensors


def _upsampling(path: str, into: int, out: int, *, doubles_time: bool) -> dict[str, Shape]:
    tensors = _conv(f"{path}.resample.1", out, into, 3, 3)
    return tensors | _conv(f"{path}.time_conv", 2 * into, into, 3, 1, 1) if doubles_time else tensors


def _middle(half: str, width: int) -> dict[str, Shape]:
    return {
        **_residual(f"{half}.middle.0", width, width),
        f"{half}.middle.1.norm.gamma": (width, 1, 1),
        **_conv(f"{half}.middle.1.to_qkv", 3 * width, width, 1, 1),
        **_conv(f"{half}.middle.1.proj", width, width, 1, 1),
        **_residual(f"{half}.middle.2", width, width),
    }


def _head(half: str, width: int, out: int) -> dict[str, Shape]:
    return {f"{half}.head.0.gamma": (width, 1, 1, 1), **_conv(f"{half}.head.2", out, width, 3, 3, 3)}
