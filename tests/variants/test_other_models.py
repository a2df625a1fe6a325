"""Models that this version does not run are told by their tensors and refused by their names."""

from dataclasses import replace

import pytest

from mlx_video.config import TransformerConfig
from mlx_video.errors import CheckpointError
from mlx_video.variants.other_models import PUBLISHED, digest_shapes, name_other_model
from mlx_video.variants.registry import VARIANTS, recognise_checkpoint
from mlx_video.variants.variant import CheckpointFacts
from mlx_video.weights.names.animate_names import blur_buffers
from mlx_video.weights.names.transformer_names import transformer_tensors
from tests.fixtures.published_sizes import (
    ALL_TRANSFORMERS,
    PUBLISHED_CONTROL_TRANSFORMERS,
    PUBLISHED_TRANSFORMERS,
)

SMALL = TransformerConfig(dim=128, ffn_dim=96, num_heads=1, num_layers=2, text_dim=32)
# Source: the tensors that comfy/model_detection.py, detect_unet_config, tells these models by.
MODELS = {
    "Wan2.2 Fun-5B-Control-Camera": (100, 48, ("control_adapter.conv.weight",)),
    "HuMo": (16, 16, ("audio_proj.audio_proj_glob_1.layer.bias",)),
    "SCAIL": (20, 16, ("patch_embedding_pose.weight",)),
    "a Fun Control model": (48, 16, ()),
    "Lucy-Edit": (96, 48, ()),
    "Wan2.2 Fun-5B-InP": (100, 48, ()),
    "Wan2.2 Fun-5B-Control": (148, 48, ()),
}


@pytest.mark.parametrize("is_dual", [False, True])
@pytest.mark.parametrize("title", MODELS)
def test_each_is_refused_by_its_name_and_the_tensor_that_tells_it(title: str, is_dual: bool):
    in_dim, out_dim, extra = MODELS[title]
    shapes = transformer_tensors(replace(SMALL, in_dim=in_dim, out_dim=out_dim))
    with pytest.raises(CheckpointError) as caught:
        recognise_checkpoint(shapes | dict.fromkeys(extra, (4,)), {}, is_dual=is_dual)
    message = str(caught.value)
    assert f": this is {title}" in message
    assert "which this version cannot convert" in message
    assert not extra or any(name in message for name in extra)


def test_an_unknown_model_is_described_by_its_channels():
    with pytest.raises(CheckpointError, match="17 channels in, 16 out; no model that this version knows"):
        recognise_checkpoint(transformer_tensors(replace(SMALL, in_dim=17)), {})


@pytest.mark.parametrize("name", PUBLISHED_TRANSFORMERS | PUBLISHED_CONTROL_TRANSFORMERS)
def test_every_published_variant_is_known_by_the_digest_of_its_tensors(name: str):
    variant = next(variant for variant in VARIANTS if variant.name == name)
    config = ALL_TRANSFORMERS[name]
    tensors = variant.network.tensors(config) | (blur_buffers() if config.face else {})
    if variant.name == "krea-realtime-14b":  # what tells it from Wan2.1 T2V
        tensors = {f"model.{tensor}": shape for tensor, shape in tensors.items()}
    assert variant.title in PUBLISHED[digest_shapes(tensors)]


_1_3B = TransformerConfig(1536, 8960, 12, 30, image_dim=1280)
SMALL_MODELS = {
    "Wan2.1 Fun Control 1.3B": replace(_1_3B, in_dim=48),
    "Wan2.1 Fun-V1.1 Control-Camera 1.3B": replace(_1_3B, in_dim=32, camera_dim=24),
    "Wan2.1 Fun-V1.1 Control 1.3B": replace(_1_3B, in_dim=48, reference_dim=16),
}


@pytest.mark.parametrize("title", SMALL_MODELS)
def test_a_smaller_size_is_recognised_and_known_by_its_digest_too(title: str):
    config = SMALL_MODELS[title]
    tensors = next(
        iter(variant for variant in VARIANTS if title.startswith(f"{variant.title} "))
    ).network.tensors(config)
    assert PUBLISHED[digest_shapes(tensors)] == title
    found = recognise_checkpoint(tensors, {})
    assert found.variant.title == title.removesuffix(" 1.3B")
    assert found.config.transformer == replace(config, model_type="i2v")


def test_a_published_transformer_is_known_by_all_of_its_tensors():
    config = next(iter(PUBLISHED_TRANSFORMERS.values()))
    shapes = transformer_tensors(config)
    facts = CheckpointFacts(
        config.in_dim, config.out_dim, config.dim, config.num_layers, False, frozenset(shapes)
    )
    assert name_other_model(facts, shapes) == PUBLISHED[digest_shapes(shapes)]
    assert name_other_model(facts) is None
