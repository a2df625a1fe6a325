"""The tensors of wav2vec 2.0: which there are, how large, and their converted spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlx_video.config import AudioEncoderConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.weights.names.transformer_names import linear_tensors
from mlx_video.weights.rules import CHANNELS_LAST, Rule, Shape, drop

# Behind "wav2vec2." in the published file, as all names here but those of its end.
ANCHOR = "feature_projection.projection.weight"
CONVERTED_ANCHOR = "feature_projection.weight"
HEAD_DIM = 64  # of every published encoder; no tensor tells how many heads there are
FIRST_STRIDE, STRIDE = 5, 2  # likewise

_CURE = "Fetch wav2vec2-large-xlsr-53-english/model.safetensors from Wan-AI/Wan2.2-S2V-14B."
_POSITION = "encoder.pos_conv_embed.conv"

# Newer releases of PyTorch call the two parts of a normalized weight otherwise.
HF_RULES = (
    drop("lm_head.*"),  # letters, which no video model reads
    drop("masked_spec_embed"),  # of training
    Rule(f"{_POSITION}.parametrizations.weight.original0", f"{_POSITION}.weight_g"),
    Rule(f"{_POSITION}.parametrizations.weight.original1", f"{_POSITION}.weight_v"),
    Rule("*", "*"),
)
WAN_RULES = (
    Rule("feature_extractor.conv_layers.N.conv.weight", "conv_layers.N.conv.weight", CHANNELS_LAST),
    Rule("feature_extractor.conv_layers.N.*", "conv_layers.N.*"),
    Rule("feature_projection.layer_norm.*", "feature_norm.*"),
    Rule("feature_projection.projection.*", "feature_projection.*"),
    Rule(f"{_POSITION}.weight_v", "position.weight_v", CHANNELS_LAST),
    Rule(f"{_POSITION}.weight_g", "position.weight_g", CHANNELS_LAST),
    Rule(f"{_POSITION}.bias", "position.bias"),
    Rule("encoder.layers.N.*", "layers.N.*"),
    Rule("encoder.layer_norm.*", "layer_norm.*"),
    Rule("*", "*"),
)


def audio_encoder_tensors(config: AudioEncoderConfig) -> dict[str, Shape]:
    """Name and shape of every tensor that is used, as the transformers package spells them.

    Source: transformers src/transformers/models/wav2vec2/modeling_wav2vec2.py, Wav2Vec2Model.
    """
    width, conv_width = config.width, config.conv_width
    tensors: dict[str, Shape] = {}
    for index, kernel in enumerate(config.conv_kernels):
        path = f"feature_extractor.conv_layers.{index}"
        tensors |= {
            f"{path}.conv.weight": (conv_width, conv_width if index else 1, kernel),
            f"{path}.conv.bias": (conv_width,),
            **_norm(f"{path}.layer_norm", conv_width),
        }
    tensors |= _norm("feature_projection.layer_norm", conv_width)
    tensors |= linear_tensors("feature_projection.projection", width, conv_width)
    tensors |= {
        f"{_POSITION}.weight_g": (1, 1, config.position_kernel),
        f"{_POSITION}.weight_v": (width, width // config.position_groups, config.position_kernel),
        f"{_POSITION}.bias": (width,),
    }
    for index in range(config.num_layers):
        tensors |= {f"encoder.layers.{index}.{name}": shape for name, shape in _block_tensors(config).items()}
    return tensors | _norm("encoder.layer_norm", width)


def _block_tensors(config: AudioEncoderConfig) -> dict[str, Shape]:
    width, mlp_width = config.width, config.mlp_width
    tensors: dict[str, Shape] = {}
    for letter in ("q", "k", "v", "out"):
        tensors |= linear_tensors(f"attention.{letter}_proj", width, width)
    return {
        **tensors,
        **_norm("layer_norm", width),
        **linear_tensors("feed_forward.intermediate_dense", mlp_width, width),
        **linear_tensors("feed_forward.output_dense", width, mlp_width),
        **_norm("final_layer_norm", width),
    }


def _norm(path: str, channels: int) -> dict[str, Shape]:
    return {f"{path}.weight": (channels,), f"{path}.bias": (channels,)}


def read_audio_encoder_config(
    infos: Mapping[str, TensorInfo], *, label: str = "audio encoder"
) -> AudioEncoderConfig:
    """Read the sizes of an encoder in the transformers package's names, without "wav2vec2.".

    Raises:
        CheckpointError: a tensor that tells a size is absent or misshapen, or it is another network.
    """
    kernels = [
        infos[name].shape[2]
        for name in _in_order(infos, r"feature_extractor\.conv_layers\.(\d+)\.conv\.weight")
        if len(infos[name].shape) == 3
    ]
    position = _shape(infos, f"{_POSITION}.weight_v", 3, label)
    return _read_sizes(infos, ANCHOR, kernels, (position[2], position[1]), "encoder.", label)


def read_converted_audio_encoder_config(
    infos: Mapping[str, TensorInfo], *, label: str = "audio encoder"
) -> AudioEncoderConfig:
    """Read the sizes of an encoder in a converted file; raises as :func:`read_audio_encoder_config`."""
    kernels = [
        infos[name].shape[1]
        for name in _in_order(infos, r"conv_layers\.(\d+)\.conv\.weight")
        if len(infos[name].shape) == 3
    ]
    position = _shape(infos, "position.weight_v", 3, label)
    return _read_sizes(infos, CONVERTED_ANCHOR, kernels, (position[1], position[2]), "", label)


def _read_sizes(
    infos: Mapping[str, TensorInfo],
    anchor: str,
    kernels: list[int],
    position: tuple[int, int],
    blocks: str,
    label: str,
) -> AudioEncoderConfig:
    width, conv_width = _shape(infos, anchor, 2, label)
    mlp_width = _shape(infos, f"{blocks}layers.0.feed_forward.intermediate_dense.weight", 2, label)[0]
    if not kernels or width % HEAD_DIM or width % position[1]:
        raise _no_encoder(label, anchor, (width, conv_width), infos)
    return AudioEncoderConfig(
        width=width,
        mlp_width=mlp_width,
        num_heads=width // HEAD_DIM,
        num_layers=len(_in_order(infos, rf"{re.escape(blocks)}layers\.(\d+)\.layer_norm\.weight")),
        conv_width=conv_width,
        conv_kernels=tuple(kernels),
        conv_strides=(FIRST_STRIDE, *[STRIDE] * (len(kernels) - 1)),
        position_kernel=position[0],
        position_groups=width // position[1],
    )


def _in_order(infos: Mapping[str, TensorInfo], pattern: str) -> list[str]:
    """Names that fit a pattern, in the order of the number in it."""
    found = ((re.fullmatch(pattern, name), name) for name in infos)
    return [name for _, name in sorted((int(match[1]), name) for match, name in found if match)]


def _shape(infos: Mapping[str, TensorInfo], name: str, axes: int, label: str) -> Shape:
    info = infos.get(name)
    if info is None or 0 in info.shape or len(info.shape) != axes:
        raise _no_encoder(label, name, None if info is None else info.shape, infos)
    return info.shape


def _no_encoder(
    label: str, name: str, shape: Shape | None, infos: Mapping[str, TensorInfo]
) -> CheckpointError:
    found = "missing" if shape is None else f"{list(shape)}, which is not its form"
    return CheckpointError(f"{label}: {name} is {found}, so this is no wav2vec 2.0 encoder of Wan. {_CURE}")
