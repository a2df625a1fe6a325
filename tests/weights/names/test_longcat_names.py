"""LongCat-Video's tensors: as many and as large as published, and found again whatever holds them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.variants.registry import read_original_shapes, recognise_checkpoint
from mlx_video.weights.names.longcat_names import (
    AUTHORS_RULES,
    is_quantized_longcat_layer,
    longcat_tensors,
)
from mlx_video.weights.names.transformer_names import WAN_RULES
from mlx_video.weights.rules import apply_rules, find_sources, target_shapes
from tests.fixtures.published_sizes import PUBLISHED_OWN_TRANSFORMERS

PUBLISHED = PUBLISHED_OWN_TRANSFORMERS["longcat-video"]


def under_authors_names(config=PUBLISHED):
    return {find_sources(name, AUTHORS_RULES)[0]: shape for name, shape in longcat_tensors(config).items()}


def test_the_published_model_has_1022_tensors_of_13_6_billion_numbers():
    shapes = under_authors_names()
    assert len(shapes) == 1022
    assert round(sum(map(math.prod, shapes.values())) / 1e9, 2) == 13.58


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x_embedder.proj.weight", (4096, 16, 1, 2, 2)),
        ("t_embedder.mlp.0.weight", (512, 256)),
        ("t_embedder.mlp.2.weight", (512, 512)),
        ("y_embedder.y_proj.2.weight", (4096, 4096)),
        ("blocks.47.adaLN_modulation.1.weight", (24576, 512)),
        ("blocks.0.attn.qkv.weight", (12288, 4096)),
        ("blocks.0.attn.q_norm.weight", (128,)),
        ("blocks.0.pre_crs_attn_norm.bias", (4096,)),
        ("blocks.0.cross_attn.kv_linear.weight", (8192, 4096)),
        ("blocks.0.cross_attn.k_norm.weight", (128,)),
        ("blocks.0.ffn.w1.weight", (11008, 4096)),
        ("blocks.0.ffn.w2.weight", (4096, 11008)),
        ("blocks.0.ffn.w3.weight", (11008, 4096)),
        ("final_layer.adaLN_modulation.1.bias", (8192,)),
        ("final_layer.linear.weight", (64, 4096)),
    ],
)
def test_tensors_are_named_and_shaped_as_published(name, shape):
    assert under_authors_names()[name] == shape


def test_every_name_of_the_authors_leads_back_to_itself():
    for name in longcat_tensors(replace(PUBLISHED, num_layers=2)):
        (theirs, *_) = find_sources(name, AUTHORS_RULES)
        assert apply_rules(theirs, AUTHORS_RULES)[0] == name


def test_the_model_is_recognised_by_its_tensors_alone():
    found = recognise_checkpoint(longcat_tensors(PUBLISHED), {})
    assert (found.variant.name, found.config.transformer) == ("longcat-video", PUBLISHED)
    assert (found.config.sampling.shift, found.config.sampling.fps) == (12.0, 15)


def test_a_converted_file_tells_what_it_was():
    converted = target_shapes(longcat_tensors(PUBLISHED), WAN_RULES)
    infos = {name: TensorInfo(name, shape, "F32") for name, shape in converted.items()}
    assert read_original_shapes(infos) == longcat_tensors(PUBLISHED)


def test_the_talking_model_is_refused_by_its_name():
    shapes = longcat_tensors(replace(PUBLISHED, num_layers=1))
    with pytest.raises(CheckpointError, match=r"LongCat-Video-Avatar .*blocks\.0\.audio_cross_attn"):
        recognise_checkpoint(shapes | {"blocks.0.audio_cross_attn.q_linear.weight": (4, 4)}, {})


def test_what_is_quantized_are_the_products_of_the_blocks():
    converted = target_shapes(longcat_tensors(replace(PUBLISHED, num_layers=1)), WAN_RULES)
    layers = {name.removesuffix(".weight") for name, shape in converted.items() if len(shape) == 2}
    assert {layer for layer in layers if is_quantized_longcat_layer(layer)} == {
        f"blocks.0.{part}"
        for part in (
            "self_attn.qkv", "self_attn.o", "cross_attn.q", "cross_attn.kv", "cross_attn.o",
            "ffn.fc1", "ffn.gate", "ffn.fc2",
        )
    }  # fmt: skip
