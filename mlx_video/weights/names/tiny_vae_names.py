"""Tensor names and sizes of the tiny decoder, and where each goes in a converted file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from mlx_video.config import ModelConfig, TinyVAEConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.models.vae.tiny import BLOCKS, COLOURS, DOUBLES_TIME
from mlx_video.weights.rules import CHANNELS_LAST, FLATTEN_KERNEL, Rule, Shape, drop

ANCHORS = ("decoder.13.conv.weight", "decoder.14.conv.weight")
# Numbers of the layers in their row: the first and the last convolution, and those of each stage.
_ENTRY, _EXIT = "decoder.1", "decoder.22"
_BLOCKS = (3, 9, 15)
_GROWS, _WIDENS = (7, 13, 19), (8, 14, 20)
_CONVS = (0, 2, 4)
# Of the larger form, whose blocks are others.
_SUPER_MARK = "decoder.1.conv.0.weight"
_CURE = "Give taew2_1 or taew2_2 of madebyollin/taehv."


def _places() -> Mapping[str, str]:
    """Layer of the original → layer of the module."""
    places = {_ENTRY: "entry", _EXIT: "exit"}
    for stage, (first, grow, widen) in enumerate(zip(_BLOCKS, _GROWS, _WIDENS, strict=True)):
        places[f"decoder.{grow}.conv"] = f"stages.{stage}.grow"
        places[f"decoder.{widen}"] = f"stages.{stage}.widen"
        for block in range(BLOCKS):
            for index, conv in enumerate(_CONVS):
                place = f"stages.{stage}.blocks.{block}.convs.{index}"
                places[f"decoder.{first + block}.conv.{conv}"] = place
    return places


PLACES = _places()
WAN_RULES = (
    drop("encoder.*"),
    *(
        Rule(f"{name}.weight", f"{place}.weight", FLATTEN_KERNEL if "grow" in place else CHANNELS_LAST)
        for name, place in PLACES.items()
    ),
    *(Rule(f"{name}.bias", f"{place}.bias") for name, place in PLACES.items()),
    Rule("*", "*"),
)


def tiny_vae_tensors(config: TinyVAEConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the decoder half, as its authors spell them.

    Source: madebyollin/taehv taehv.py, TAEHV.decoder.
    """
    tensors = _conv(_ENTRY, config.z_dim, config.widths[0], has_bias=True)
    for stage, (into, out) in enumerate(pairwise(config.widths)):
        for block in range(BLOCKS):
            path = f"decoder.{_BLOCKS[stage] + block}.conv"
            for conv in _CONVS:
                tensors |= _conv(f"{path}.{conv}", into if conv else 2 * into, into, has_bias=True)
        tensors[f"decoder.{_GROWS[stage]}.conv.weight"] = ((1 + DOUBLES_TIME[stage]) * into, into, 1, 1)
        tensors |= _conv(f"decoder.{_WIDENS[stage]}", into, out, has_bias=False)
    return tensors | _conv(_EXIT, config.widths[-1], COLOURS * config.patch_size**2, has_bias=True)


def _conv(path: str, into: int, out: int, *, has_bias: bool) -> dict[str, Shape]:
    weight: dict[str, Shape] = {f"{path}.weight": (out, into, 3, 3)}
    return weight | {f"{path}.bias": (out,)} if has_bias else weight


def read_tiny_vae_config(infos: Mapping[str, TensorInfo], *, label: str = "tiny decoder") -> TinyVAEConfig:
    """Read the sizes of a decoder under its authors' names; no file states them.

    Raises:
        CheckpointError: a tensor that tells a size is absent or misshapen, or it is of another form.
    """
    if _SUPER_MARK in infos:
        raise CheckpointError(f"{label}: is the larger form of the tiny decoder (super). {_CURE}")
    names = (f"{_ENTRY}.weight", *(f"decoder.{number}.weight" for number in _WIDENS), f"{_EXIT}.weight")
    shapes = [_shape(infos, name, label) for name in names]
    return _config_of(shapes, shapes[0][1], names[-1], label)


def read_converted_tiny_vae_config(
    infos: Mapping[str, TensorInfo], *, label: str = "tiny decoder"
) -> TinyVAEConfig:
    """Read the sizes of a decoder in a converted file.

    Raises:
        CheckpointError: as :func:`read_tiny_vae_config`.
    """
    names = ("entry.weight", *(f"stages.{stage}.widen.weight" for stage in range(3)), "exit.weight")
    shapes = [_shape(infos, name, label) for name in names]
    return _config_of(shapes, shapes[0][-1], names[-1], label)


def _config_of(shapes: list[Shape], z_dim: int, last: str, label: str) -> TinyVAEConfig:
    *outs, pixels = (shape[0] for shape in shapes)
    side = math.isqrt(pixels // COLOURS)
    if not side or COLOURS * side**2 != pixels:
        raise CheckpointError(f"{label}: {last} makes {pixels} channels, no square of pixels. {_CURE}")
    return TinyVAEConfig(z_dim, side, (outs[0], outs[1], outs[2], outs[3]))


def _shape(infos: Mapping[str, TensorInfo], name: str, label: str) -> Shape:
    info = infos.get(name)
    if info is None or len(info.shape) != 4:
        found = "missing" if info is None else f"{list(info.shape)}, which is not its form"
        raise CheckpointError(f"{label}: {name} is {found}, so this is no tiny decoder. {_CURE}")
    return info.shape


def describe_misfit(sizes: TinyVAEConfig, config: ModelConfig) -> str:
    """Why a tiny decoder is another model's; "" for one of this model's latents."""
    side = 2 ** len(DOUBLES_TIME) * sizes.patch_size
    if (sizes.z_dim, side) == (config.vae.z_dim, config.vae.stride[1]):
        return ""
    return (
        f"is a tiny decoder of {sizes.z_dim} latent channels and {side} pixels a cell, the model's latents "
        f"have {config.vae.z_dim} and {config.vae.stride[1]}. Give taew2_1 for 16 channels, taew2_2 for 48."
    )
