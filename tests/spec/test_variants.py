"""Every variant, one list of checks."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mlx_video.config import ModelConfig, TransformerConfig, config_from_json, config_to_json
from mlx_video.geometry import check_num_frames, measure
from mlx_video.pipeline.plan import plan_run
from mlx_video.request import GenerateRequest
from mlx_video.variants.registry import VARIANTS, find_variant
from mlx_video.variants.variant import Variant

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


def config_of(variant: Variant) -> ModelConfig:
    transformer = TransformerConfig(
        dim=64, ffn_dim=96, num_heads=2, num_layers=2, model_type=variant.model_type
    )
    return ModelConfig(variant.name, variant.model_version, transformer, sampling=variant.sampling)


@every_variant
def test_its_defaults_make_a_video(variant: Variant):
    sampling, config = variant.sampling, config_of(variant)
    check_num_frames(sampling.num_frames, config.vae.stride[0])
    plan = plan_run(GenerateRequest("a cat"), config, variant)
    assert plan.notices == (), "the default size must need no rounding"
    expected = measure(
        sampling.width, sampling.height, sampling.num_frames,
        z_dim=config.vae.z_dim, stride=config.vae.stride, patch_size=config.transformer.patch_size,
    )  # fmt: skip
    assert plan.geometry == expected


@every_variant
def test_its_config_survives_the_file(variant: Variant):
    config = config_of(variant)
    assert config_from_json(config_to_json(config)) == config
    assert find_variant(config) is variant


@every_variant
def test_its_inputs_are_fields_of_the_request(variant: Variant):
    names = {field.name for field in fields(GenerateRequest)}
    assert set(variant.inputs.required) | set(variant.inputs.optional) <= names


@every_variant
def test_its_defaults_are_plausible(variant: Variant):
    sampling = variant.sampling
    assert 1 <= sampling.steps <= 100
    assert 1 <= sampling.shift <= 16
    assert all(1 <= scale <= 10 for scale in sampling.guide_scale)
    assert sampling.fps in (16, 24)


@every_variant
def test_published_variants_stand_in_the_readmes_table(variant: Variant):
    if variant.name == "wan2.1-t2v":
        pytest.skip("stands for unpublished sizes")
    assert re.search(rf"^\| {re.escape(variant.title.split(' (')[0])} ", README, re.MULTILINE)


def test_the_official_defaults_of_wan21_text_to_video():
    by_name = {variant.name: variant.sampling for variant in VARIANTS}
    for name in ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b"):
        sampling = by_name[name]
        assert (sampling.steps, sampling.shift, sampling.guide_scale) == (50, 5.0, (5.0, 5.0))
        assert (sampling.fps, sampling.num_frames) == (16, 81)
    assert replace(by_name["wan2.1-t2v-14b"], width=832, height=480) == by_name["wan2.1-t2v-1.3b"]
