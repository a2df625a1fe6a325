"""The video autoencoders' tensor names: original to converted, converted to our networks; reading sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mlx_video.config import WAN22_VAE, VAEConfig, find_vae_config
from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.models.vae.wan21 import PIXEL_CHANNELS
from mlx_video.weights.names.vae_shapes import vae_tensors
from mlx_video.weights.rules import CHANNELS_LAST, IDENTITY, Rule, Transform

__all__ = [
    "ANCHOR",
    "CONVERTED_RULES",
    "DIFFUSERS_ANCHORS",
    "WAN21_RULES",
    "WAN22_RULES",
    "conversion_rules",
    "diffusers_rules",
    "read_latent_channels",
    "read_output_scale",
    "read_vae_config",
    "vae_tensors",
]

ANCHOR = "decoder.conv1.weight"

# Names stay as they are; every weight is a convolution's. Norm scales are called gamma and keep their shape.
WAN21_RULES = (Rule("*.weight", "*.weight", CHANNELS_LAST), Rule("*", "*"))

# [c, 1, ...] → [c].
_FLAT = Transform(lambda shape: (math.prod(shape),), lambda array: array.reshape(-1))
_LAYOUTS = {"weight": CHANNELS_LAST, "bias": IDENTITY, "gamma": _FLAT}
# Original and converted spelling of what stands before weight, bias or gamma. Other MLX Wan folders hold
# these names, which suit layers without lists.
_WAN22_SPELLINGS = (
    ("*.residual.*.", "*.residual.layer_*."),
    ("*.head.*.", "*.head.layer_*."),
    ("*.resample.1.", "*.resample_"),
    ("*.to_qkv.", "*.to_qkv_"),
    ("*.proj.", "*.proj_"),
    ("*.", "*."),
)
WAN22_RULES = (
    *(
        Rule(original + kind, converted + kind, layout)
        for original, converted in _WAN22_SPELLINGS
        for kind, layout in _LAYOUTS.items()
    ),
    Rule("*", "*"),
)
# From a converted file of either VAE to our networks, whose parameters carry the original names.
CONVERTED_RULES = (
    *(
        Rule(converted + kind, original + kind)
        for original, converted in _WAN22_SPELLINGS
        for kind in _LAYOUTS
    ),
    Rule("*", "*"),
)

DIFFUSERS_ANCHORS = ("decoder.mid_block.resnets.0.norm1.gamma", "decoder.conv_in.weight")
# What stands before the parts of a block, Diffusers' spelling and the official one.
_DIFFUSERS_PATHS = {
    **{
        f"{half}.mid_block.{theirs}.": f"{half}.middle.{ours}."
        for half in ("encoder", "decoder")
        for theirs, ours in (("resnets.0", 0), ("attentions.0", 1), ("resnets.1", 2))
    },
    # Wan2.2: blocks lie in stages.
    "encoder.down_blocks.N.resnets.N.": "encoder.downsamples.N.downsamples.N.",
    "encoder.down_blocks.N.downsampler.": "encoder.downsamples.N.downsamples.2.",
    "decoder.up_blocks.N.upsampler.": "decoder.upsamples.N.upsamples.3.",
    # Wan2.1: one list.
    "encoder.down_blocks.N.": "encoder.downsamples.N.",
}
_WAN22_DECODER_PATHS = {"decoder.up_blocks.N.resnets.N.": "decoder.upsamples.N.upsamples.N."}
_WAN21_DECODER_PATHS = {
    **{
        f"decoder.up_blocks.{stage}.resnets.{block}.": f"decoder.upsamples.{4 * stage + block}."
        for stage in range(4)
        for block in range(3)
    },
    **{
        f"decoder.up_blocks.{stage}.upsamplers.0.": f"decoder.upsamples.{4 * stage + 3}."
        for stage in range(3)
    },
}
_DIFFUSERS_PARTS = {
    "norm1.*": "residual.0.*",
    "conv1.*": "residual.2.*",
    "norm2.*": "residual.3.*",
    "conv2.*": "residual.6.*",
    "conv_shortcut.*": "shortcut.*",
    "*": "*",
}
_DIFFUSERS_ENDS = {
    **{
        f"{half}.{theirs}.*": f"{half}.{ours}.*"
        for half in ("encoder", "decoder")
        for theirs, ours in (("conv_in", "conv1"), ("norm_out", "head.0"), ("conv_out", "head.2"))
    },
    "quant_conv.*": "conv1.*",
    "post_quant_conv.*": "conv2.*",
}


def diffusers_rules(names: Iterable[str]) -> tuple[Rule, ...]:
    """From Diffusers' names of a VAE to the official ones; layouts are the same.

    Args:
        names: of the VAE's tensors, which tell its generation.

    Source: diffusers scripts/convert_wan_to_diffusers.py, convert_vae and convert_vae_22.
    """
    is_wan22 = any(re.search(r"decoder\.up_blocks\.\d+\.upsampler\.", name) for name in names)
    paths = _DIFFUSERS_PATHS | (_WAN22_DECODER_PATHS if is_wan22 else _WAN21_DECODER_PATHS)
    return (
        *(Rule(theirs, ours) for theirs, ours in _DIFFUSERS_ENDS.items()),
        *(
            Rule(path + part, official_path + official_part)
            for path, official_path in paths.items()
            for part, official_part in _DIFFUSERS_PARTS.items()
        ),
        Rule("*", "*"),
    )


def conversion_rules(config: VAEConfig) -> tuple[Rule, ...]:
    """How the original tensors of a VAE become those of a converted file."""
    return WAN22_RULES if config.z_dim == WAN22_VAE.z_dim else WAN21_RULES


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
    has_blocks = any(name.startswith(("decoder.middle.", "encoder.middle.")) for name in infos)
    seems = "and the blocks of a Wan VAE are there" if has_blocks else "so this is no Wan VAE"
    raise CheckpointError(
        f"{label}: conv1.weight and conv2.weight are missing, {seems}. "
        "Fetch Wan2.1_VAE.pth or Wan2.2_VAE.pth from the model's Wan-AI repository."
    )


def read_vae_config(
    infos: Mapping[str, TensorInfo], base: VAEConfig | None = None, *, label: str = "VAE"
) -> VAEConfig:
    """Read the widths of a VAE from its tensors, in the original or the converted layout.

    Args:
        infos: tensors under the official code's names.
        base: the VAE that the model takes; None for the one whose latents have the channels found.
        label: names the file in messages.

    Returns:
        `base` with the widths found, None for a half that the file lacks; and with the size that the decoder
        makes its frames, that of `base` where the file does not tell.

    Raises:
        CheckpointError: it is no VAE, another one than `base`, or it has neither half.
    """
    z_dim = read_latent_channels(infos, label=label)
    base = base or _find_base(z_dim, label)
    if z_dim != base.z_dim:
        raise CheckpointError(
            f"{label}: has {z_dim} latent channels, this model takes {base.z_dim}. "
            "Use Wan2.1_VAE.pth for Wan2.1 and A14B models, Wan2.2_VAE.pth for TI2V-5B."
        )
    encoder_dim = _rows(infos, "encoder.conv1.weight")
    decoder_dim = _rows(infos, "decoder.head.0.gamma")
    if encoder_dim is None and decoder_dim is None:
        raise CheckpointError(
            f"{label}: encoder.conv1.weight and decoder.head.0.gamma are missing, so it holds no half of a "
            "VAE. Fetch the file again."
        )
    scale = read_output_scale(infos, base)
    return replace(base, encoder_dim=encoder_dim, decoder_dim=decoder_dim, output_scale=scale)


def read_output_scale(infos: Mapping[str, TensorInfo], base: VAEConfig) -> int:
    """How many times larger a decoder makes the frames: it may give a square of pixels for every position.

    Args:
        infos: tensors under the official code's names, original or converted layout.
        base: the VAE that the model takes; its value counts where the tensors do not tell.
    """
    channels = _rows(infos, "decoder.head.2.weight")
    if channels is None or base.z_dim == WAN22_VAE.z_dim:
        return base.output_scale
    scale = math.isqrt(channels // PIXEL_CHANNELS) or 1
    # Any other number is misshapen, and refused with the shape that was expected.
    return scale if PIXEL_CHANNELS * scale**2 == channels else base.output_scale


def _find_base(z_dim: int, label: str) -> VAEConfig:
    try:
        return find_vae_config(z_dim)
    except ConfigError as error:
        raise CheckpointError(f"{label}: {error}") from error


def _rows(infos: Mapping[str, TensorInfo], name: str) -> int | None:
    return infos[name].shape[0] if name in infos and infos[name].shape else None
