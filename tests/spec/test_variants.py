"""Every variant, one list of checks."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mlx_video.conditioning.types import Conditioning
from mlx_video.conditioning.units import ADD_ON, UnitInputs
from mlx_video.config import (
    FaceConfig,
    ModelConfig,
    TransformerConfig,
    config_from_json,
    config_to_json,
    find_vae_config,
)
from mlx_video.errors import RequestError
from mlx_video.geometry import check_num_frames, measure, size_multiple
from mlx_video.request import INPUTS, GenerateRequest
from mlx_video.runs.settings import ShownSize, plan_run
from mlx_video.variants.registry import VARIANTS, find_variant
from mlx_video.variants.variant import Variant

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


# Channels in and out, whether two transformers, and what the image branch has.
VACE = {"vace_layers": (0, 1), "vace_in_dim": 96}
KINDS = {
    "wan2.1-i2v-14b": (36, 16, False, {"image_dim": 32}),
    "wan2.1-flf2v-14b": (36, 16, False, {"image_dim": 32, "image_positions": 10}),
    "wan2.2-t2v-a14b": (16, 16, True, {}),
    "wan2.2-i2v-a14b": (36, 16, True, {}),
    "wan2.2-i2v": (36, 16, False, {}),
    "wan2.2-i2v-demo": (36, 16, False, {}),
    "wan2.2-ti2v-5b": (48, 48, False, {}),
    "wan2.1-fun-inp": (36, 16, False, {"image_dim": 32}),
    "wan2.1-fun-1.3b-inp": (36, 16, False, {"image_dim": 32}),
    "wan2.2-fun-a14b-inp": (36, 16, True, {}),
    "wan2.1-fun-control": (48, 16, False, {"image_dim": 32}),
    "wan2.1-fun-v1.1-control": (48, 16, False, {"image_dim": 32, "reference_dim": 16}),
    "wan2.1-fun-v1.1-control-camera": (32, 16, False, {"image_dim": 32, "camera_dim": 24}),
    "wan2.2-fun-a14b-control-camera": (36, 16, True, {"camera_dim": 24}),
    "wan2.2-fun-control-camera": (36, 16, False, {"camera_dim": 24}),
    "wan2.2-fun-control": (52, 16, False, {"reference_dim": 16}),
    "wan2.2-fun-control-demo": (52, 16, False, {"reference_dim": 16}),
    "wan2.2-fun-a14b-control": (52, 16, True, {"reference_dim": 16}),
    "wan2.1-vace": (16, 16, False, VACE),
    "wan2.1-vace-1.3b": (16, 16, False, VACE),
    "wan2.1-vace-14b": (16, 16, False, VACE),
    "wan2.2-vace-fun-a14b": (16, 16, True, VACE),
    "wan2.2-animate-14b": (36, 16, False, {"image_dim": 32, "face": FaceConfig(layers=(0, 1))}),
    "longcat-video": (16, 16, False, {"time_dim": 24}),
    "wan2.1-video-as-prompt-14b": (36, 16, False, {"image_dim": 32, "mot_layers": (0, 1)}),
    "bernini-r-a14b": (16, 16, True, {}),
    "wan2.2-s2v-14b": (16, 16, False, {"audio_dim": 32, "audio_layers": (0, 1), "pose_dim": 16}),
}
SIZES = {
    "wan2.1-t2v-demo": (192, 6), "wan2.2-i2v-demo": (192, 6), "wan2.2-fun-control-demo": (192, 6),
    "wan2.1-t2v-1.3b": (1536, 30),
    "wan2.1-t2v-14b": (5120, 40), "bernini-r-1.3b": (1536, 30), "wan2.1-fun-1.3b-inp": (1536, 30),
    "wan2.1-vace-1.3b": (1536, 30), "wan2.1-vace-14b": (5120, 40),
}  # fmt: skip


def config_of(variant: Variant) -> ModelConfig:
    in_dim, out_dim, is_dual, branch = KINDS.get(variant.name, (16, 16, False, {}))
    dim, num_layers = SIZES.get(variant.name, (64, 2))
    transformer = TransformerConfig(
        dim=dim, ffn_dim=96, num_heads=2, num_layers=num_layers, model_type=variant.model_type,
        in_dim=in_dim, out_dim=out_dim, **branch,
    )  # fmt: skip
    return ModelConfig(
        variant.name, variant.model_version, transformer,
        vae=find_vae_config(out_dim), sampling=variant.sampling, is_dual=is_dual,
    )  # fmt: skip


ALTERNATIVES = {
    "camera_control_direction": "Left", "camera_trajectory": Path("Zoom_In"),
    "input_audio": Path("sound.wav"), "audio_embeds": Path("sound.npy"),
}  # fmt: skip


def request_for(variant: Variant, **options: object) -> GenerateRequest:
    names = {*variant.inputs.required, *({"control_video"} & {*variant.inputs.optional})} - {"prompt"}
    given = {name: "a dog" if INPUTS[name] == "text" else Path("picture.png") for name in names}
    given |= {name: ALTERNATIVES[name] for name in variant.inputs.alternatives[:1]}
    return GenerateRequest("a cat", **given, **options)


@every_variant
def test_of_alternatives_it_needs_just_one(variant: Variant):
    inputs = variant.inputs
    if not inputs.alternatives:
        pytest.skip("has none")
    one, other = inputs.alternatives
    without = replace(request_for(variant), **{one: None})
    flags = " or ".join(f"--{name.replace('_', '-')}" for name in inputs.alternatives)
    with pytest.raises(RequestError, match=f"missing: .* {flags}"):
        plan_run(without, config_of(variant), variant)
    both = replace(request_for(variant), **{other: ALTERNATIVES[other]})
    with pytest.raises(RequestError, match=f"beside others: {re.escape(variant.title)}"):
        plan_run(both, config_of(variant), variant)


@every_variant
def test_camera_options_are_refused_where_they_say_nothing(variant: Variant):
    if "camera_trajectory" not in variant.inputs.all:
        with pytest.raises(RequestError, match=re.escape(variant.title)) as caught:
            plan_run(replace(request_for(variant), camera_control_speed=0.1), config_of(variant), variant)
        assert caught.value.field == "camera_control_speed"
        return
    with pytest.raises(RequestError, match="2 numbers: a pose has 19"):
        plan_run(replace(request_for(variant), camera_control_origin=(0, 1)), config_of(variant), variant)
    file = {"camera_control_direction": None, "camera_trajectory": Path("a.txt"), "camera_control_speed": 0.1}
    with pytest.raises(RequestError, match="a.txt is a file of poses"):
        plan_run(replace(request_for(variant), **file), config_of(variant), variant)


@every_variant
def test_it_says_so_where_a_control_video_is_absent(variant: Variant):
    plan = plan_run(replace(request_for(variant), control_video=None), config_of(variant), variant)
    told = any("Without --control-video" in notice.text for notice in plan.notices)
    assert told == ("control_video" in variant.inputs.optional)


@every_variant
def test_it_refuses_a_control_that_it_cannot_take(variant: Variant):
    for names in (("control_video",), ("reference_image",), ("inpaint_video", "inpaint_video_mask")):
        if names[0] in variant.inputs.all:
            continue
        request = replace(request_for(variant), **dict.fromkeys(names, Path("control.png")))
        with pytest.raises(RequestError, match=re.escape(variant.title)) as caught:
            plan_run(request, config_of(variant), variant)
        assert caught.value.field == names[0]


@every_variant
def test_its_defaults_make_a_video(variant: Variant):
    sampling, config = variant.sampling, config_of(variant)
    check_num_frames(sampling.num_frames, config.vae.stride[0])
    plan = plan_run(request_for(variant), config, variant)
    told = [notice.text for notice in plan.notices if not notice.text.startswith("Recipe ")]
    assert told == [], "the default size must need no rounding"
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
def test_a_folder_of_another_tool_is_recognised_by_its_sizes(variant: Variant):
    found = find_variant(replace(config_of(variant), variant=""))
    assert found is variant or (variant.names is not None and found.traits == variant.traits)


@every_variant
def test_it_refuses_images_that_it_cannot_take(variant: Variant):
    for name in {"image", "end_image"} - set(variant.inputs.all):
        images = {"image": Path("first.png"), name: Path("picture.png")}
        with pytest.raises(RequestError, match=re.escape(variant.title)):
            plan_run(GenerateRequest("a cat", **images), config_of(variant), variant)


@every_variant
def test_it_asks_for_the_images_it_needs(variant: Variant):
    for name in set(variant.inputs.required) - {"prompt"}:
        request = replace(request_for(variant), **{name: None, "end_image": None})
        with pytest.raises(RequestError, match=f"missing: {re.escape(variant.title)} needs it") as caught:
            plan_run(request, config_of(variant), variant)
        assert caught.value.field in (name, "end_image")


@every_variant
def test_the_size_follows_the_image(variant: Variant):
    if variant.choose_size is None or variant.inputs.sized_by:
        pytest.skip("takes no image, or follows another input")
    config = config_of(variant)
    request = replace(request_for(variant), image=Path("first.png"))
    plan = plan_run(request, config, variant, ShownSize(height=1000, width=1000))
    step_w, step_h = size_multiple(config.vae.stride, config.transformer.patch_size)
    area = plan.geometry.width * plan.geometry.height
    assert plan.geometry.width % step_w == plan.geometry.height % step_h == 0
    assert 0.85 * variant.sampling.max_area < area <= variant.sampling.max_area
    assert not plan.crops_images
    exact = plan_run(replace(request, width=64, height=96), config, variant, ShownSize(1000, 1000))
    assert (exact.geometry.width, exact.geometry.height) == (64, 96)
    assert exact.crops_images
    assert "cut at the centre to 64x96" in exact.notices[-1].text


@every_variant
def test_its_inputs_are_fields_of_the_request(variant: Variant):
    names = {field.name for field in fields(GenerateRequest)}
    assert set(variant.inputs.all) <= names


@every_variant
def test_each_conditioning_field_has_one_owner(variant: Variant):
    config, images = config_of(variant), {"image": np.zeros((16, 16, 3), np.uint8)}
    geometry = measure(16, 16, 5, z_dim=16, stride=(4, 8, 8), patch_size=(1, 2, 2))
    for target in (None, 1):
        inputs = UnitInputs(("a cat",), geometry, config, images, options={"target_index": target})
        owned = [name for unit in variant.units if unit.is_needed(inputs) for name in unit.owns]
        assert len(owned) == len(set(owned))
    owned = [name for unit in variant.units for name in unit.owns]
    assert {name for name in owned if not name.endswith(ADD_ON)} <= {f.name for f in fields(Conditioning)}
    stages = [unit.stage for unit in variant.units]
    assert stages == sorted(stages, key=stages.index), "units of a stage stand side by side"


@every_variant
def test_its_defaults_are_plausible(variant: Variant):
    sampling = variant.sampling
    assert 1 <= sampling.steps <= 100
    assert 1 <= sampling.shift <= 20
    assert all(1 <= scale <= 10 for scale in sampling.guide_scale)
    assert sampling.fps in (15, 16, 24, 30)


UNPUBLISHED = (
    "wan2.1-t2v", "wan2.2-i2v", "wan2.2-fun-control", "wan2.2-fun-control-camera", "wan2.1-vace",
)  # fmt: skip


@every_variant
def test_published_variants_stand_in_the_readmes_table(variant: Variant):
    if variant.name in UNPUBLISHED:
        pytest.skip("stands for unpublished sizes")
    assert re.search(rf"^\| {re.escape(variant.title.split(' (')[0])} ", README, re.MULTILINE)


def test_the_official_defaults_of_wan21_text_to_video():
    by_name = {variant.name: variant.sampling for variant in VARIANTS}
    for name in ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b"):
        sampling = by_name[name]
        assert (sampling.steps, sampling.shift, sampling.guide_scale) == (50, 5.0, (5.0, 5.0))
        assert (sampling.fps, sampling.num_frames) == (16, 81)
    assert replace(by_name["wan2.1-t2v-14b"], width=832, height=480) == by_name["wan2.1-t2v-1.3b"]


OFFICIAL = {  # steps, shift, guide scales (low, high), boundary, fps, frames
    "wan2.1-i2v-14b": (40, 5.0, (5.0, 5.0), 0.0, 16, 81),
    "wan2.1-flf2v-14b": (50, 16.0, (5.0, 5.0), 0.0, 16, 81),
    "wan2.2-t2v-a14b": (40, 12.0, (3.0, 4.0), 0.875, 16, 81),
    "wan2.2-i2v-a14b": (40, 5.0, (3.5, 3.5), 0.9, 16, 81),
    "wan2.2-ti2v-5b": (50, 5.0, (5.0, 5.0), 0.0, 24, 121),
    "wan2.1-vace-1.3b": (50, 16.0, (5.0, 5.0), 0.0, 16, 81),
    "wan2.1-vace-14b": (50, 16.0, (5.0, 5.0), 0.0, 16, 81),
    "wan2.2-vace-fun-a14b": (50, 12.0, (5.0, 5.0), 0.875, 16, 81),
    "bernini-r-a14b": (40, 5.0, (3.2, 4.0), 0.875, 16, 81),
    "bernini-r-1.3b": (40, 5.0, (4.0, 4.0), 0.0, 16, 81),
    "krea-realtime-14b": (6, 20.0, (1.0, 1.0), 0.0, 16, 81),
    "wan2.1-video-as-prompt-14b": (50, 4.0, (5.0, 5.0), 0.0, 16, 49),
    "wan2.2-s2v-14b": (40, 3.0, (4.5, 4.5), 0.0, 16, 77),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_defaults_of_the_other_models(name: str):
    sampling = next(variant.sampling for variant in VARIANTS if variant.name == name)
    found = (sampling.steps, sampling.shift, sampling.guide_scale, sampling.boundary)
    assert (*found, sampling.fps, sampling.num_frames) == OFFICIAL[name]


def test_wan21_image_to_video_shifts_less_at_480p():
    variant = next(variant for variant in VARIANTS if variant.name == "wan2.1-i2v-14b")
    config, image = config_of(variant), ShownSize(height=720, width=1280)
    assert plan_run(request_for(variant), config, variant, image).shift == 3.0
    assert plan_run(request_for(variant, width=1280, height=720), config, variant, image).shift == 5.0
    assert plan_run(request_for(variant, shift=7.0), config, variant, image).shift == 7.0
    edited = replace(config, sampling=replace(config.sampling, shift=4.0))
    assert plan_run(request_for(variant), edited, variant, image).shift == 4.0
