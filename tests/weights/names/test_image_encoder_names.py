"""The CLIP file: which of its tensors are used, under which names, and the sizes they tell."""

from dataclasses import replace

import pytest

from mlx_video.config import ImageEncoderConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.weights.names.image_encoder_names import (
    ANCHOR,
    image_encoder_tensors,
    read_converted_image_encoder_config,
    read_image_encoder_config,
    wan_rules,
)
from mlx_video.weights.rules import find_prefix, target_shapes
from tests.weights.names.test_tensor_names import fingerprint

PUBLISHED = ImageEncoderConfig()
SMALL = ImageEncoderConfig(160, 96, num_heads=2, num_layers=3, image_size=42, patch_size=7)


def layer(path, *shape):
    return {f"{path}.weight": shape, f"{path}.bias": shape[:1]}


def tower(config):
    """A whole tower in the official names: with the last block, and what stands behind it."""
    ends = layer("post_norm", config.width) | {"head": (config.width, 1024)}
    return image_encoder_tensors(replace(config, num_layers=config.num_layers + 1)) | ends


def text_tower():
    """Wan2.1 wan/modules/xlm_roberta.py, XLMRoberta, behind clip.py's XLMRobertaWithHead."""
    tensors = layer("norm", 1024) | {"head.0.weight": (1024, 1024), "head.2.weight": (1024, 1024)}
    for name, rows in (("token", 250002), ("type", 1), ("pos", 514)):
        tensors[f"{name}_embedding.weight"] = (rows, 1024)
    for index in range(24):
        block = layer("norm1", 1024) | layer("norm2", 1024)
        block |= layer("ffn.0", 4096, 1024) | layer("ffn.2", 1024, 4096)
        for letter in "qkvo":
            block |= layer(f"attn.{letter}", 1024, 1024)
        tensors |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    return tensors


def published_file():
    visual = {f"visual.{name}": shape for name, shape in tower(PUBLISHED).items()}
    return visual | {f"textual.{name}": shape for name, shape in text_tower().items()} | {"log_scale": ()}


def infos_of(shapes):
    return {name: TensorInfo(name, shape, "F32") for name, shape in shapes.items()}


def test_the_table_is_that_of_the_published_file():
    tensors = published_file()
    assert len(tensors) == 784
    assert fingerprint(tensors) == "5941c53e207d62f20f9025686193c40b"


def test_of_the_published_file_only_what_wan_runs_is_kept():
    tensors = published_file()
    prefix = find_prefix(tensors, ANCHOR)
    assert prefix == "visual."
    kept = target_shapes(
        {name.removeprefix(prefix): shape for name, shape in tensors.items()}, wan_rules(PUBLISHED)
    )
    assert len(kept) == 392 - 12 - 3
    assert kept == target_shapes(image_encoder_tensors(PUBLISHED), wan_rules(PUBLISHED))
    assert kept["patch_embedding.weight"] == (1280, 588)
    assert kept["transformer.30.mlp.fc1.weight"] == (5120, 1280)
    assert kept["transformer.30.mlp.fc2.bias"] == (1280,)
    assert kept["transformer.30.attn.to_qkv.weight"] == (3840, 1280)


@pytest.mark.parametrize("config", [PUBLISHED, SMALL], ids=["published", "small"])
def test_sizes_are_read_from_original_and_from_converted_tensors(config):
    assert read_image_encoder_config(infos_of(tower(config))) == config
    converted = target_shapes(image_encoder_tensors(config), wan_rules(config))
    assert read_converted_image_encoder_config(infos_of(converted)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cls_embedding": None}, "clip.pth: cls_embedding is missing, and the blocks of CLIP are there"),
        (
            {"cls_embedding": None, "transformer.0.attn.to_qkv.weight": None},
            "clip.pth: cls_embedding is missing, so this is no CLIP visual tower",
        ),
        ({"cls_embedding": (160,)}, r"cls_embedding is \[160\], which is not its form"),
        ({"pos_embedding": None}, "pos_embedding is missing"),
        ({"transformer.0.mlp.0.weight": None}, "transformer.0.mlp.0.weight is missing"),
        ({"patch_embedding.weight": (3,)}, r"patch_embedding.weight is \[3\]"),
        ({"patch_embedding.weight": (160, 1, 1, 1)}, r"patch_embedding.weight is \[160, 1, 1, 1\]"),
        ({"cls_embedding": (1, 1, 100)}, "100 wide, no multiple of the 80 channels of a head"),
        ({"post_norm.weight": None}, "post_norm.weight is missing"),
    ],
)
def test_a_file_that_is_no_whole_tower_says_which_tensor_tells(change, message):
    shapes = {name: shape for name, shape in (tower(SMALL) | change).items() if shape is not None}
    with pytest.raises(CheckpointError, match=message) as caught:
        read_image_encoder_config(infos_of(shapes), label="clip.pth")
    assert "Fetch models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth" in str(caught.value)
