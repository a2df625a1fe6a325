"""A request and a config become settled settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlx_video.config import DEFAULT_NEGATIVE_PROMPT, ModelConfig, SamplingDefaults, TransformerConfig
from mlx_video.errors import RequestError
from mlx_video.request import GenerateRequest, LoraChoice
from mlx_video.runs.record import describe_run
from mlx_video.runs.settings import ShownSize, plan_run, report_unlike_prompt
from mlx_video.variants.registry import find_variant

CONFIG = ModelConfig(
    "wan2.1-t2v",
    "2.1",
    TransformerConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=2),
    sampling=SamplingDefaults(steps=7, shift=3.0, guide_scale=(4.0, 4.0), num_frames=9, width=48, height=32),
)
VARIANT = find_variant(CONFIG)


def plan(**options):
    return plan_run(GenerateRequest(**({"prompt": "a cat"} | options)), CONFIG, VARIANT)


def test_defaults_come_from_the_models_config():
    settled = plan()
    assert (settled.steps, settled.shift, settled.guide_scale, settled.fps) == (7, 3.0, (4.0, 4.0), 16)
    assert settled.geometry.latent_shape == (16, 3, 4, 6)
    assert settled.negative_prompt == DEFAULT_NEGATIVE_PROMPT
    assert settled.notices == ()


def test_the_request_overrides_the_config():
    settled = plan(
        steps=3, shift=8.0, guide_scale=2.0, width=64, height=64, num_frames=5, negative_prompt="dull"
    )
    assert (settled.steps, settled.shift, settled.guide_scale) == (3, 8.0, (2.0, 2.0))
    assert settled.geometry.latent_shape == (16, 2, 8, 8)
    assert settled.negative_prompt == "dull"


def test_an_empty_negative_prompt_is_not_the_default_one():
    assert plan(negative_prompt="").negative_prompt == ""


def test_guide_scale_one_needs_no_negative_prompt():
    assert plan(guide_scale=1.0).negative_prompt is None


def test_a_negative_prompt_that_is_not_read_is_reported():
    (notice,) = plan(guide_scale=1.0, negative_prompt="dull").notices
    assert "the negative prompt is not read" in notice.text
    assert plan(guide_scale=1.5, negative_prompt="dull").notices == ()
    assert plan(guide_scale=1.0, negative_prompt="").notices == ()


def test_a_size_that_is_no_multiple_of_16_is_rounded_and_reported():
    settled = plan(width=60, height=41)
    assert (settled.geometry.width, settled.geometry.height) == (64, 48)
    assert "Size 60x41 becomes 64x48" in settled.notices[0].text


def test_two_different_guide_scales_need_two_transformers():
    with pytest.raises(RequestError, match="3.0,4.0: two scales are for models with two transformers"):
        plan(guide_scale=(3.0, 4.0))
    assert plan(guide_scale=(3.0, 3.0)).guide_scale == (3.0, 3.0)


def test_trimming_every_frame_is_refused():
    with pytest.raises(RequestError, match="9: leaves nothing of 9 frames"):
        plan(trim_first_frames=9)


@pytest.mark.parametrize("prompt", ["", " \t\n"])
def test_an_empty_prompt_is_accepted(prompt: str):
    assert plan(prompt=prompt).geometry == plan(prompt="a cat").geometry


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"width": 1_000_000}, "width: 1000000: makes 62500 tokens along this axis, the models know 1024"),
        (
            {"width": 16_000, "height": 16_000, "num_frames": 401},
            "num_frames: 401 of 16000x16000 pixels: 101,000,000 tokens of 64 numbers are more than GPU",
        ),
        ({"height": 16_400}, "height: 16400: makes 1025 tokens"),
        ({"num_frames": 4097}, "num_frames: 4097: makes 1025 tokens"),
    ],
)
def test_a_video_beyond_the_models_positions_is_refused(options: dict, text: str):
    with pytest.raises(RequestError, match=text):
        plan(**options)
    assert plan(width=16_384, height=16, num_frames=4093).geometry.grid == (1024, 1, 1024)


def test_the_settings_of_a_run_name_everything_that_made_it():
    request = GenerateRequest("a cat", seed=5)
    settings = describe_run(request, plan_run(request, CONFIG, VARIANT), "wan2.1-t2v")
    assert settings["prompt"] == "a cat"
    assert settings["seed"] == "5"
    assert settings["model"] == "wan2.1-t2v"
    assert all(isinstance(value, str) for value in settings.values())
    assert {
        "steps",
        "shift",
        "guide_scale",
        "scheduler",
        "noise",
        "width",
        "height",
        "num_frames",
    } <= settings.keys()


def test_a_wrong_frame_count_is_refused_before_anything_is_loaded():
    config = replace(CONFIG, sampling=replace(CONFIG.sampling, num_frames=10))
    with pytest.raises(RequestError, match="Nearest: 9 or 13"):
        plan_run(GenerateRequest("a cat"), config, VARIANT)


DUAL = replace(
    CONFIG,
    variant="wan2.2-t2v-a14b",
    is_dual=True,
    sampling=replace(CONFIG.sampling, guide_scale=(3.0, 4.0), boundary=0.875),
)


def plan_dual(**options):
    return plan_run(GenerateRequest("a cat", **options), DUAL, find_variant(DUAL))


def test_two_experts_have_their_own_scales_and_a_boundary():
    settled = plan_dual()
    assert (settled.guide_scale, settled.boundary) == ((3.0, 4.0), 0.875)
    settled = plan_dual(guide_scale=(1.0, 2.0), boundary=0.5)
    assert (settled.guide_scale, settled.boundary) == ((1.0, 2.0), 0.5)
    assert plan_dual(guide_scale=2.5).guide_scale == (2.5, 2.5)


def test_the_negative_prompt_is_encoded_if_either_expert_needs_it():
    assert plan_dual(guide_scale=(1.0, 2.0)).negative_prompt is not None
    assert plan_dual(guide_scale=1.0).negative_prompt is None


def test_a_boundary_needs_two_transformers():
    with pytest.raises(RequestError, match="boundary: 0.9: this model has one transformer"):
        plan(boundary=0.9)


def test_both_scales_are_recorded():
    request = GenerateRequest("a cat")
    settings = describe_run(request, plan_run(request, DUAL, find_variant(DUAL)), "x")
    assert (settings["guide_scale"], settings["boundary"]) == ("3.0,4.0", "0.875")


I2V = replace(
    CONFIG,
    variant="wan2.2-i2v",
    transformer=replace(CONFIG.transformer, in_dim=36),
    sampling=replace(CONFIG.sampling, max_area=832 * 480),
)


def plan_image(image_height: int, image_width: int, **options):
    request = GenerateRequest("a cat", image=Path("first.png"), **options)
    return plan_run(request, I2V, find_variant(I2V), ShownSize(image_height, image_width))


@pytest.mark.parametrize(
    ("image", "size"),
    [
        ((480, 832), (832, 464)),
        ((832, 480), (480, 832)),
        ((1024, 1024), (624, 624)),
        ((480, 640), (720, 544)),
    ],
)
def test_the_size_follows_the_images_shape(image: tuple[int, int], size: tuple[int, int]):
    settled = plan_image(*image)
    assert (settled.geometry.width, settled.geometry.height) == size
    assert settled.notices[0].text.startswith(f"Size {size[0]}x{size[1]} follows the image's shape")


def test_one_given_side_leaves_the_other_to_the_image():
    assert plan_image(100, 200, width=64).geometry.height == 32
    assert plan_image(100, 200, height=64).geometry.width == 128


def test_an_image_too_thin_for_the_area_is_refused():
    with pytest.raises(RequestError, match="image: 100000x1 pixels: too long and thin"):
        plan_image(1, 100_000)


def test_a_prompt_unlike_the_training_prompts_is_remarked_on_unless_an_adapter_may_know_it():
    demo = replace(VARIANT, remark_on_prompt=lambda prompt: f"Unknown: {prompt}.")
    told = list(report_unlike_prompt(GenerateRequest("a cat"), demo))
    assert [notice.text for notice in told] == ["Unknown: a cat."]
    adapted = GenerateRequest("a cat", loras=(LoraChoice(Path("cat.safetensors")),))
    assert list(report_unlike_prompt(adapted, demo)) == []
    assert list(report_unlike_prompt(GenerateRequest(""), demo)) == []
    assert list(report_unlike_prompt(GenerateRequest("a cat"), VARIANT)) == []
