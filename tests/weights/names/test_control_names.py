"""Tensor lists of the published control models: names and shapes have the digests of the files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_video.config import MotionControllerConfig, TransformerConfig
from mlx_video.errors import ConfigError
from mlx_video.variants.other_models import digest_shapes
from mlx_video.weights.names.control_sizes import read_control_sizes
from mlx_video.weights.names.fun_names import fun_tensors
from mlx_video.weights.names.motion_names import motion_controller_tensors
from mlx_video.weights.names.transformer_names import DIFFUSERS_RULES, WAN_RULES, transformer_tensors
from mlx_video.weights.names.vace_names import (
    VACE_RULES,
    count_vace_blocks,
    vace_tensors,
)
from mlx_video.weights.rules import apply_rules

SMALL = TransformerConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
LARGE = TransformerConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)
CLIP = {"image_dim": 1280}
REFERENCE, CAMERA = {"reference_dim": 16}, {"camera_dim": 24}

# Digests as DiffSynth-Studio lists them: sizes, what differs from text-to-video, tensors, digest.
FUN = {
    "T2V-1.3B": (SMALL, {}, 825, "9269f8db9040a9d860eaca435be61814"),
    "T2V-14B": (LARGE, {}, 1095, "aafcfd9672c3a2456dc46e1cb6e52c70"),
    "Fun-1.3B-InP": (SMALL, {"in_dim": 36, **CLIP}, 983, "6d6ccde6845b95ad9114ab993d917893"),
    "Fun-14B-InP": (LARGE, {"in_dim": 36, **CLIP}, 1303, "6bfcfb3b342cb286ce886889d519a77e"),
    "Wan2.2-Fun-A14B-InP": (LARGE, {"in_dim": 36}, 1095, "5b013604280dd715f8457c6ed6d6a626"),
    "FLF2V-14B-720P": (
        LARGE, {"in_dim": 36, "image_positions": 514, **CLIP}, 1304, "3ef3b1f8e1dab83d5b71fd7b617f859f",
    ),
    "Fun-1.3B-Control": (SMALL, {"in_dim": 48, **CLIP}, 983, "349723183fc063b2bfc10bb2835cf677"),
    "Fun-14B-Control": (LARGE, {"in_dim": 48, **CLIP}, 1303, "efa44cddf936c70abd0ea28b6cbe946c"),
    "Fun-V1.1-1.3B-Control": (
        SMALL, {"in_dim": 48, **CLIP, **REFERENCE}, 985, "70ddad9d3a133785da5ea371aae09504",
    ),
    "Fun-V1.1-14B-Control": (
        LARGE, {"in_dim": 48, **CLIP, **REFERENCE}, 1305, "26bde73488a92e64cc20b0a7485b9e5b",
    ),
    "Wan2.2-Fun-A14B-Control": (LARGE, {"in_dim": 52, **REFERENCE}, 1097, "2267d489f0ceb9f21836532952852ee5"),
    "Fun-V1.1-1.3B-Control-Camera": (
        SMALL, {"in_dim": 32, **CLIP, **CAMERA}, 989, "ac6a5aa74f4a0aab6f64eb9a72f19901",
    ),
    "Fun-V1.1-14B-Control-Camera": (
        LARGE, {"in_dim": 32, **CLIP, **CAMERA}, 1309, "b61c605c2adbd23124d152ed28e049ae",
    ),
    "Wan2.2-Fun-A14B-Control-Camera": (
        LARGE, {"in_dim": 36, **CAMERA}, 1101, "47dbeab5e560db3180adf51dc0232fb1",
    ),
}  # fmt: skip
PUBLISHED_LAYERS = {15: tuple(range(0, 30, 2)), 8: tuple(range(0, 40, 5))}
VACE = {
    "VACE-1.3B": (SMALL, 15, 1264, "a61453409b67cd3246cf0c3bebad47ba"),
    "VACE-14B": (LARGE, 8, 1331, "7a513e1f257a861512b1afd387a8ecd9"),
}


@pytest.mark.parametrize(("sizes", "changes", "count", "digest"), FUN.values(), ids=FUN)
def test_a_fun_transformer_has_the_tensors_of_its_file(sizes, changes, count, digest):
    config = replace(sizes, **changes)
    tensors = transformer_tensors(config) | fun_tensors(config)
    assert len(tensors) == count
    assert digest_shapes(tensors) == digest


@pytest.mark.parametrize(("sizes", "blocks", "count", "digest"), VACE.values(), ids=VACE)
def test_vace_has_the_tensors_of_its_file(sizes, blocks, count, digest):
    config = replace(sizes, vace_layers=PUBLISHED_LAYERS[blocks], vace_in_dim=96)
    tensors = transformer_tensors(config) | vace_tensors(config)
    assert len(tensors) == count
    assert count_vace_blocks(tensors) == blocks
    assert digest_shapes(tensors) == digest


def test_a_motion_controller_has_the_tensors_of_its_file():
    assert (
        digest_shapes(motion_controller_tensors(MotionControllerConfig()))
        == "dbd5ec76bbf977983f972c151d545389"
    )


@pytest.mark.parametrize(("sizes", "changes"), [entry[:2] for entry in FUN.values()], ids=FUN)
def test_sizes_of_fun_networks_are_read_from_their_tensors(sizes, changes):
    config = replace(sizes, **changes)
    found = read_control_sizes(transformer_tensors(config) | fun_tensors(config), {})
    assert replace(config, **found) == config


@pytest.mark.parametrize("is_converted", [False, True])
@pytest.mark.parametrize(("sizes", "blocks"), [entry[:2] for entry in VACE.values()], ids=VACE)
def test_sizes_of_vace_are_read_from_its_tensors(sizes, blocks, is_converted):
    config = replace(sizes, vace_layers=PUBLISHED_LAYERS[blocks], vace_in_dim=96)
    shapes = transformer_tensors(config) | vace_tensors(config)
    if is_converted:  # names are put back, kernels stay flat
        shapes["vace_patch_embedding.weight"] = (sizes.dim, 384)
    assert replace(sizes, **read_control_sizes(shapes, {})) == config


def test_layers_of_vace_are_those_of_config_json():
    config = replace(SMALL, vace_layers=(0, 7, 9), vace_in_dim=96)
    shapes = vace_tensors(config)
    assert read_control_sizes(shapes, {"vace_layers": [0, 7, 9]})["vace_layers"] == (0, 7, 9)
    for stated in ([0, 7], [0, 7, "9"], 3):
        with pytest.raises(ConfigError, match="says vace_layers .*, but the transformer has 3 VACE blocks"):
            read_control_sizes(shapes, {"vace_layers": stated})


@pytest.mark.parametrize(
    ("theirs", "official", "ours"),
    [
        ("vace_blocks.0.proj_in.bias", "vace_blocks.0.before_proj.bias", "vace_before_proj.bias"),
        ("vace_blocks.3.proj_out.bias", "vace_blocks.3.after_proj.bias", "vace_blocks.3.after_proj.bias"),
        ("vace_blocks.3.attn1.to_q.weight", "vace_blocks.3.self_attn.q.weight", None),
        ("vace_blocks.3.norm2.weight", "vace_blocks.3.norm3.weight", None),
        ("vace_blocks.3.ffn.net.2.weight", "vace_blocks.3.ffn.2.weight", "vace_blocks.3.ffn.fc2.weight"),
        ("vace_blocks.3.scale_shift_table", "vace_blocks.3.modulation", None),
        ("blocks.3.scale_shift_table", "blocks.3.modulation", None),
        ("vace_patch_embedding.bias", "vace_patch_embedding.bias", "vace_patch_embedding_proj.bias"),
    ],
)
def test_diffusers_names_become_ours_by_way_of_the_official_ones(theirs, official, ours):
    assert apply_rules(theirs, DIFFUSERS_RULES)[0] == official
    assert apply_rules(official, (*VACE_RULES, *WAN_RULES))[0] == (ours or official)
