"""Checkpoints are recognised by what their tensors say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mlx_video.config import ModelConfig, TransformerConfig
from mlx_video.errors import CheckpointError, ConfigError, RequestError
from mlx_video.variants.registry import VARIANTS, find_variant, recognise_checkpoint
from mlx_video.weights.names.fun_names import fun_tensors
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.names.vace_names import vace_tensors

SMALL = TransformerConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32)
OFFICIAL = {
    "_class_name": "WanModel", "model_type": "t2v", "dim": 64, "ffn_dim": 96, "num_heads": 2, "num_layers": 2,
    "in_dim": 16, "out_dim": 16, "freq_dim": 256, "text_len": 512, "eps": 1e-06,
}  # fmt: skip


def shapes_of(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    return dict(transformer_tensors(config))


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "name"),
    [
        (1536, 30, 12, "wan2.1-t2v-1.3b"),
        (5120, 40, 40, "wan2.1-t2v-14b"),
        (192, 6, 3, "wan2.1-t2v-demo"),
        (64, 2, 2, "wan2.1-t2v"),
    ],
)
def test_text_to_video_models_are_told_apart_by_size(dim: int, layers: int, heads: int, name: str):
    config = replace(SMALL, dim=dim, num_layers=layers, num_heads=heads)
    found = recognise_checkpoint(shapes_of(config), {"num_heads": heads})
    assert found.variant.name == name
    assert found.config.transformer == config
    assert find_variant(found.config) is found.variant


def test_sizes_come_from_tensors_and_the_rest_from_the_config():
    config = recognise_checkpoint(shapes_of(SMALL), OFFICIAL | {"text_len": 64, "eps": 1e-5}).config
    assert config.transformer == replace(SMALL, text_len=64, eps=1e-5)


def test_without_a_head_count_heads_are_128_wide():
    config = replace(SMALL, dim=256)
    assert recognise_checkpoint(shapes_of(config), {}).config.transformer.num_heads == 2


@pytest.mark.parametrize("key", ["dim", "ffn_dim", "num_layers", "out_dim", "freq_dim"])
def test_a_config_that_contradicts_the_tensors_is_refused_with_both_sizes(key: str):
    wrong = OFFICIAL | {key: OFFICIAL[key] + 2}
    text = f"config.json says {key} {wrong[key]}, but .* in shard.safetensors says {OFFICIAL[key]}"
    with pytest.raises(ConfigError, match=text):
        recognise_checkpoint(shapes_of(SMALL), wrong, label="shard.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_heads", "two"), ("num_heads", 0), ("eps", None), ("text_len", -4), ("text_len", True)],
)
def test_a_config_with_a_value_that_is_no_positive_number_is_refused(key: str, value: object):
    with pytest.raises(ConfigError, match=f"{key} is {value!r}, expected a positive number"):
        recognise_checkpoint(shapes_of(SMALL), OFFICIAL | {key: value})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embedding.weight", ()),
        ("patch_embedding.weight", (64, 0, 1, 2, 2)),
        ("head.head.weight", ()),
        ("blocks.0.ffn.0.weight", (0, 64)),
        ("text_embedding.0.weight", (64, 0)),
        ("time_embedding.0.weight", (64,)),
    ],
)
def test_a_tensor_that_tells_no_size_is_refused_by_name(name: str, shape: tuple[int, ...]):
    with pytest.raises(CheckpointError, match=f"x.pth: .*{name} is"):
        recognise_checkpoint(shapes_of(SMALL) | {name: shape}, {}, label="x.pth")


def test_a_wild_block_index_is_counted_once():
    shapes = shapes_of(SMALL) | {"blocks.1000000000.norm3.weight": (64,)}
    with pytest.raises(ConfigError, match="num_layers 2, but the number of blocks"):
        recognise_checkpoint(shapes, OFFICIAL)


def test_a_version_that_the_tensors_contradict_is_refused():
    with pytest.raises(RequestError, match="2.2: the checkpoint is Wan2.1 T2V of another size"):
        recognise_checkpoint(shapes_of(SMALL), OFFICIAL, model_version="2.2")
    assert recognise_checkpoint(shapes_of(SMALL), OFFICIAL, model_version="2.1")


def test_models_with_networks_that_this_version_lacks_are_refused():
    shapes = shapes_of(SMALL) | {"img_emb.proj.0.weight": (1280,)}
    with pytest.raises(CheckpointError, match="no model that this version knows"):
        recognise_checkpoint(shapes, OFFICIAL)


KINDS = {
    "wan2.1-t2v": SMALL,
    "wan2.2-i2v": replace(SMALL, in_dim=36),
    "wan2.1-i2v-14b": replace(SMALL, in_dim=36, image_dim=32),
    "wan2.1-flf2v-14b": replace(SMALL, in_dim=36, image_dim=32, image_positions=10),
    "wan2.2-ti2v-5b": replace(SMALL, in_dim=48, out_dim=48),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_part_beyond_what_a_model_has_is_refused_by_name(name: str):
    shapes, title = shapes_of(KINDS[name]), next(v.title for v in VARIANTS if v.name == name)
    assert recognise_checkpoint(shapes, {"num_heads": 2}).variant.name == name
    extra = {"zebra.weight": (3,), "motion_adapter.proj.weight": (4, 4)}
    message = rf"{title} has no motion_adapter.proj.weight \[4, 4\] and 1 more: .* Known:"
    with pytest.raises(CheckpointError, match=message):
        recognise_checkpoint(shapes | extra, {"num_heads": 2})


@pytest.mark.parametrize("part", ["img_emb.proj.", "img_emb.emb_pos"])
def test_half_of_an_image_branch_is_refused_by_name(part: str):
    shapes = shapes_of(KINDS["wan2.1-flf2v-14b"])
    kept = {name: shape for name, shape in shapes.items() if not name.startswith("img_emb.")}
    half = kept | {name: shape for name, shape in shapes.items() if name.startswith(part)}
    if part == "img_emb.proj.":
        assert recognise_checkpoint(half, {"num_heads": 2}).variant.name == "wan2.1-i2v-14b"
        return
    with pytest.raises(CheckpointError, match=r"has no img_emb.emb_pos \[1, 10, 32\]: "):
        recognise_checkpoint(half, {"num_heads": 2})


def test_a_file_without_a_transformer_is_refused():
    with pytest.raises(
        CheckpointError, match=r"patch_embedding.weight is missing, so this is no Wan transformer"
    ):
        recognise_checkpoint({"conv1.weight": (1,)}, {})


@pytest.mark.parametrize("name", ["patch_embedding.weight", "head.head.weight"])
def test_a_transformer_that_lacks_one_tensor_is_called_one(name):
    shapes = shapes_of(SMALL)
    del shapes[name]
    told = rf"wan\.safetensors: tensor {name} is missing; of the others, {len(shapes)}, the blocks are a Wan"
    with pytest.raises(CheckpointError, match=told):
        recognise_checkpoint(shapes, {}, label="wan.safetensors")


def test_a_flattened_patch_embedding_is_refused():
    shapes = shapes_of(SMALL) | {"patch_embedding.weight": (64, 64)}
    with pytest.raises(CheckpointError, match=r"patch_embedding.weight is \[64, 64\]"):
        recognise_checkpoint(shapes, OFFICIAL)


def test_a_folder_of_another_tool_is_found_by_its_sizes():
    config = ModelConfig("", "2.1", replace(SMALL, dim=1536, num_layers=30, num_heads=12))
    assert find_variant(config).name == "wan2.1-t2v-1.3b"


def test_names_and_titles_are_unique():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert len({variant.title for variant in VARIANTS}) == len(VARIANTS)


def control_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    config = CONTROL_CONFIGS[kind]
    own = vace_tensors(config) if config.vace_layers else fun_tensors(config)
    return shapes_of(config) | own


CONTROL_CONFIGS = {
    "plain": SMALL,
    "VACE": replace(SMALL, vace_layers=(0, 1), vace_in_dim=96),
    "reference": replace(SMALL, in_dim=48, image_dim=32, reference_dim=16),
    "camera": replace(SMALL, in_dim=32, image_dim=32, camera_dim=24),
}


@pytest.mark.parametrize(
    ("kind", "key", "stated", "text"),
    [
        ("VACE", "vace_in_dim", 32, r"but vace_patch_embedding.weight \[64, 96, 1, 2, 2\] in .* says 96"),
        ("VACE", "vace_layers", [0], r"but the transformer has 2 VACE blocks"),
        ("plain", "vace_in_dim", 96, r"but .*, without vace_patch_embedding.weight, says 0"),
        ("plain", "vace_layers", [0, 1], r"but the transformer has 0 VACE blocks"),
        ("reference", "add_ref_conv", False, r"but ref_conv.weight \[64, 16, 2, 2\] in .* says True"),
        ("reference", "has_ref_conv", False, r"but ref_conv.weight \[64, 16, 2, 2\] in .* says True"),
        ("reference", "in_dim_ref_conv", 32, r"but ref_conv.weight .* says 16"),
        ("plain", "add_ref_conv", True, r"but .*, without ref_conv.weight, says False"),
        ("camera", "add_control_adapter", False, r"but control_adapter.conv.weight .* says True"),
        ("camera", "in_dim_control_adapter", 6, r"but control_adapter.conv.weight .* says 24"),
        ("camera", "downscale_factor_control_adapter", 16, r"but control_adapter.conv.weight .* says 8"),
        ("plain", "add_control_adapter", True, r"but .*, without control_adapter.conv.weight, says False"),
    ],
)
def test_a_config_of_other_control_networks_is_refused_with_both_sizes(kind, key, stated, text):
    said = re.escape(f"config.json says {key} {stated}, ")
    with pytest.raises(ConfigError, match=f"{said}{text}.*fetch both from the same place"):
        recognise_checkpoint(control_shapes(kind), {key: stated})


@pytest.mark.parametrize("kind", CONTROL_CONFIGS)
def test_a_config_may_state_the_sizes_of_control_networks(kind: str):
    stated = {
        "add_ref_conv": kind == "reference", "add_control_adapter": kind == "camera", "in_dim_ref_conv": 16,
        "in_dim_control_adapter": 24, "downscale_factor_control_adapter": 8,
        **({"vace_layers": [0, 1], "vace_in_dim": 96} if kind == "VACE" else {}),
    }  # fmt: skip
    found = recognise_checkpoint(control_shapes(kind), stated | {"num_heads": 2}).config.transformer
    expected = CONTROL_CONFIGS[kind]
    assert (found.vace_layers, found.vace_in_dim) == (expected.vace_layers, expected.vace_in_dim)
    assert (found.reference_dim, found.camera_dim) == (expected.reference_dim, expected.camera_dim)
