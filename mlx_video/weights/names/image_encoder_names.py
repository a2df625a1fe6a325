"""The CLIP visual tower's tensors: which there are, how large, and their converted spelling."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from mlx_video.config import ImageEncoderConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.weights.rules import FLATTEN_KERNEL, Rule, Shape, drop

ANCHOR = "cls_embedding"  # behind "visual." in the published file, as all names here
HEAD_DIM = 80  # of the published tower; no tensor tells how many heads there are

_CURE = "Fetch models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth from Wan-AI/Wan2.1-I2V-14B-480P."

# What the published file holds beside the visual tower: an XLM-RoBERTa, which Wan does not use.
TEXT_TOWER = ("textual.*", "log_scale")


def _drop_beside(*patterns: str) -> tuple[Rule, ...]:
    """Rules for what stands beside the tower, which keeps the prefix that both may have."""
    return (*map(drop, patterns), *(drop(f"*.{pattern}") for pattern in patterns))


HF_ANCHORS = ("embeddings.class_embedding", "pre_layrnorm.weight")  # the second is spelt so
_HF_BLOCK = {
    "layer_norm1.*": "norm1.*",
    "layer_norm2.*": "norm2.*",
    "self_attn.q_proj.*": "attn.q.*",
    "self_attn.k_proj.*": "attn.k.*",
    "self_attn.v_proj.*": "attn.v.*",
    "self_attn.out_proj.*": "attn.proj.*",
    "mlp.fc1.*": "mlp.0.*",
    "mlp.fc2.*": "mlp.2.*",
}
# From Hugging Face's names, without "vision_model.", to the official ones; q, k and v stay apart.
# Source: transformers src/transformers/models/clip/modeling_clip.py, CLIPVisionModel.
HF_RULES = (
    drop("embeddings.position_ids"),
    *_drop_beside("visual_projection.*", "text_*", "logit_scale"),
    Rule("embeddings.class_embedding", ANCHOR),
    Rule("embeddings.position_embedding.weight", "pos_embedding"),
    Rule("embeddings.patch_embedding.*", "patch_embedding.*"),
    Rule("pre_layrnorm.*", "pre_norm.*"),
    Rule("post_layernorm.*", "post_norm.*"),
    *(Rule(f"encoder.layers.N.{theirs}", f"transformer.N.{ours}") for theirs, ours in _HF_BLOCK.items()),
    Rule("*", "*"),
)


def wan_rules(config: ImageEncoderConfig) -> tuple[Rule, ...]:
    """Rules for the published file, which also holds a text tower and the visual tower's unused end."""
    return (
        *_drop_beside(*TEXT_TOWER),
        drop(f"transformer.{config.num_layers}.*"),
        drop("post_norm.*"),
        drop("head"),
        Rule("patch_embedding.weight", "patch_embedding.weight", FLATTEN_KERNEL),
        Rule("transformer.N.mlp.0.*", "transformer.N.mlp.fc1.*"),
        Rule("transformer.N.mlp.2.*", "transformer.N.mlp.fc2.*"),
        Rule("*", "*"),
    )


def image_encoder_tensors(config: ImageEncoderConfig) -> dict[str, Shape]:
    """Name and shape of every tensor that Wan uses of the tower, as the official code spells them.

    Source: Wan2.1 wan/modules/clip.py, VisionTransformer.
    """
    width = config.width
    tensors: dict[str, Shape] = {
        "cls_embedding": (1, 1, width),
        "pos_embedding": (1, config.num_tokens, width),
        "patch_embedding.weight": (width, 3, config.patch_size, config.patch_size),
        **_layer("pre_norm", (width,)),
    }
    for index in range(config.num_layers):
        tensors |= {f"transformer.{index}.{name}": shape for name, shape in _block_tensors(config).items()}
    return tensors


def _block_tensors(config: ImageEncoderConfig) -> dict[str, Shape]:
    width, mlp_width = config.width, config.mlp_width
    return {
        **_layer("norm1", (width,)),
        **_layer("attn.to_qkv", (3 * width, width)),
        **_layer("attn.proj", (width, width)),
        **_layer("norm2", (width,)),
        **_layer("mlp.0", (mlp_width, width)),
        **_layer("mlp.2", (width, mlp_width)),
    }


def _layer(path: str, shape: Shape) -> dict[str, Shape]:
    return {f"{path}.weight": shape, f"{path}.bias": shape[:1]}


def read_image_encoder_config(
    infos: Mapping[str, TensorInfo], *, label: str = "image encoder"
) -> ImageEncoderConfig:
    """Read the sizes of a tower in the official code's names; no file states them.

    Args:
        infos: tensors without the prefix "visual.".
        label: names the file in messages.

    Raises:
        CheckpointError: a tensor that tells a size is absent or misshapen, or it is no such tower.
    """
    config = _read_sizes(infos, "mlp.0", _count_blocks(infos) - 1, label)
    # Without it the file may have been cut, and which block is the tower's last could not be told.
    _shape(infos, "post_norm.weight", 1, label)
    return config


def read_converted_image_encoder_config(
    infos: Mapping[str, TensorInfo], *, label: str = "image encoder"
) -> ImageEncoderConfig:
    """Read the sizes of a tower in a converted file, which holds only the blocks that run.

    Raises:
        CheckpointError: a tensor that tells a size is absent or misshapen, or it is no such tower.
    """
    return _read_sizes(infos, "mlp.fc1", _count_blocks(infos), label)


def _count_blocks(infos: Mapping[str, TensorInfo]) -> int:
    found = (re.match(r"transformer\.(\d+)\.", name) for name in infos)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _read_sizes(
    infos: Mapping[str, TensorInfo], first_layer: str, num_layers: int, label: str
) -> ImageEncoderConfig:
    width = _shape(infos, ANCHOR, 3, label)[2]
    mlp_width = _shape(infos, f"transformer.0.{first_layer}.weight", 2, label)[0]
    kernel = _shape(infos, "patch_embedding.weight", None, label)
    patch_size = math.isqrt(math.prod(kernel[1:]) // 3)
    side = math.isqrt(_shape(infos, "pos_embedding", 3, label)[1] - 1)
    if not patch_size:
        raise _no_tower(label, "patch_embedding.weight", kernel, infos)
    if width % HEAD_DIM:
        raise CheckpointError(
            f"{label}: {ANCHOR} is {width} wide, no multiple of the {HEAD_DIM} channels of a head. "
            f"It is another CLIP. {_CURE}"
        )
    return ImageEncoderConfig(
        width=width,
        mlp_width=mlp_width,
        num_heads=width // HEAD_DIM,
        num_layers=num_layers,
        image_size=side * patch_size,
        patch_size=patch_size,
    )


def _shape(infos: Mapping[str, TensorInfo], name: str, axes: int | None, label: str) -> Shape:
    info = infos.get(name)
    if info is None or 0 in info.shape or len(info.shape) not in ((2, 4) if axes is None else (axes,)):
        raise _no_tower(label, name, None if info is None else info.shape, infos)
    return info.shape


def _no_tower(label: str, name: str, shape: Shape | None, infos: Mapping[str, TensorInfo]) -> CheckpointError:
    if shape is None and "transformer.0.attn.to_qkv.weight" in infos:
        return CheckpointError(f"{label}: {name} is missing, and the blocks of CLIP are there. {_CURE}")
    found = "missing" if shape is None else f"{list(shape)}, which is not its form"
    return CheckpointError(f"{label}: {name} is {found}, so this is no CLIP visual tower of Wan. {_CURE}")
