"""The Wan2.1 video autoencoder's tensors: which there are, how large, and their converted layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlx_video.checkpoint.tensor_source import TensorInfo
from mlx_video.config import VAEConfig
from mlx_video.errors import CheckpointError
from mlx_video.weights.rules import CHANNELS_LAST, Rule, Shape

ANCHOR = "decoder.conv1.weight"
WAN22_MARK = "decoder.upsamples.0.upsamples.0.residual.2.weight"
PIXEL_CHANNELS = 3
STAGES = 4

# Names stay as they are; every weight is a convolution's. Norm scales are called gamma and keep their shape.
WAN21_RULES = (Rule("*.weight", "*.weight", CHANNELS_LAST), Rule("*", "*"))


def vae_tensors(config: VAEConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the Wan2.1 VAE; a half whose width is None is left out.

    Source: Wan2.1 wan/modules/vae.py, WanVAE_, Encoder3d, Decoder3d.
    """
    tensors: dict[str, Shape] = {}
    if config.encoder_dim is not None:
        tensors |= _encoder(config.encoder_dim, config.z_dim)
    if config.decoder_dim is not None:
        tensors |= _decoder(config.decoder_dim, config.z_dim)
    return tensors


def _encoder(width: int, z_dim: int) -> dict[str, Shape]:
    widths = (width, width, 2 * width, 4 * width, 4 * width)
    top = widths[-1]
    tensors = _conv("encoder.conv1", width, PIXEL_CHANNELS, 3, 3, 3)
    index = 0
    for stage in range(STAGES):
        into, out = widths[stage], widths[stage + 1]
        for block in range(2):
            tensors |= _residual(f"encoder.downsamples.{index}", out if block else into, out)
            index += 1
        if stage < STAGES - 1:
            tensors |= _conv(f"encoder.downsamples.{index}.resample.1", out, out, 3, 3)
            if stage > 0:  # time is halved by the second and third stage
                tensors |= _conv(f"encoder.downsamples.{index}.time_conv", out, out, 3, 1, 1)
            index += 1
    return (
        tensors
        | _middle("encoder", top)
        | _head("encoder", top, 2 * z_dim)
        | _conv("conv1", 2 * z_dim, 2 * z_dim, 1, 1, 1)
    )


def _decoder(width: int, z_dim: int) -> dict[str, Shape]:
    widths = (4 * width, 4 * width, 4 * width, 2 * width, width)
    tensors = _conv("conv2", z_dim, z_dim, 1, 1, 1) | _conv("decoder.conv1", widths[0], z_dim, 3, 3, 3)
    tensors |= _middle("decoder", widths[0])
    index = 0
    for stage in range(STAGES):
        into, out = widths[stage], widths[stage + 1]
        into = into if stage == 0 else into // 2  # each upsampling halves the channels
        for block in range(3):
            tensors |= _residual(f"decoder.upsamples.{index}", out if block else into, out)
            index += 1
        if stage < STAGES - 1:
            tensors |= _conv(f"decoder.upsamples.{index}.resample.1", out // 2, out, 3, 3)
            if stage < 2:  # time is doubled by the first and second stage
                tensors |= _conv(f"decoder.upsamples.{index}.time_conv", 2 * out, out, 3, 1, 1)
            index += 1
    return tensors | _head("decoder", width, PIXEL_CHANNELS)


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


def read_latent_channels(infos: Mapping[str, TensorInfo], *, label: str = "VAE") -> int:
    """How many channels a VAE's latents have, of either generation.

    Args:
        infos: tensors under the official code's names, original or converted layout.
        label: names the file in messages.

    Raises:
        CheckpointError: it is no Wan VAE.
    """
    for name, share in (("conv2.weight", 1), ("conv1.weight", 2)):
        if rows := _rows(infos, name):
            return rows // share
    raise CheckpointError(
        f"{label}: conv1.weight and conv2.weight are missing, so this is no Wan VAE. "
        "Fetch Wan2.1_VAE.pth from a Wan-AI repository."
    )


def read_vae_config(
    infos: Mapping[str, TensorInfo], base: VAEConfig | None = None, *, label: str = "VAE"
) -> VAEConfig:
    """Read the widths of a Wan2.1 VAE from its tensors, in the original or the converted layout.

    Args:
        infos: tensors under the official code's names.
        base: says everything that tensors do not tell; Wan2.1's own values if None.
        label: names the file in messages.

    Returns:
        `base` with the widths found; None for a half that the file lacks.

    Raises:
        CheckpointError: it is no Wan2.1 VAE, or it has neither half.
    """
    base = base or VAEConfig()
    z_dim = read_latent_channels(infos, label=label)
    if z_dim != base.z_dim or WAN22_MARK in infos:
        raise CheckpointError(
            f"{label}: has {z_dim} latent channels, this model takes {base.z_dim}. "
            "Use Wan2.1_VAE.pth, which serves every Wan2.1 model."
        )
    encoder_dim = _rows(infos, "encoder.conv1.weight")
    decoder_dim = _rows(infos, "decoder.head.0.gamma")
    if encoder_dim is None and decoder_dim is None:
        raise CheckpointError(
            f"{label}: encoder.conv1.weight and decoder.head.0.gamma are missing, so it holds no half of a "
            "VAE. Fetch Wan2.1_VAE.pth again."
        )
    return replace(base, encoder_dim=encoder_dim, decoder_dim=decoder_dim)


def _rows(infos: Mapping[str, TensorInfo], name: str) -> int | None:
    return infos[name].shape[0] if name in infos and infos[name].shape else None
