"""Which model takes which input: what it cannot take is refused by name before any file is opened."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from mlx_video.errors import MediaError, MLXVideoError, RequestError
from mlx_video.request import INPUTS, GenerateRequest, flag_of
from mlx_video.runs.generate import settle_run
from mlx_video.runs.input_checks import check_inputs
from mlx_video.variants.registry import VARIANTS
from mlx_video.variants.variant import Variant
from tests.spec.test_variants import config_of

PICTURE, OTHER, VIDEO = Path("absent.png"), Path("other.png"), Path("absent.mp4")
SOUND = Path("absent.wav")
# Column of the table → what is given for it.
COLUMNS: dict[str, dict[str, Any]] = {
    "image": {"image": PICTURE},
    "end image": {"end_image": OTHER},
    "control video": {"control_video": VIDEO},
    "reference image": {"reference_image": OTHER},
    "VACE video": {"vace_video": VIDEO},
    "VACE mask": {"vace_video_mask": VIDEO},
    "VACE references": {"vace_reference_image": (OTHER,)},
    "inpainting": {"inpaint_video": VIDEO, "inpaint_video_mask": VIDEO},
    "camera": {"camera_control_direction": "Left"},
    "motion bucket": {"motion_bucket_id": 50},
    "one frame": {"target_index": 1, "control_image": (OTHER,), "control_index": (0,)},
    "video prompt": {"vap_video": VIDEO, "vap_prompt": "a dog"},
    "earlier video": {"longcat_video": VIDEO},
    "refined video": {"longcat_refine": VIDEO},
    "sound": {"input_audio": SOUND},
    "poses and motion": {"s2v_pose_video": VIDEO, "motion_video": VIDEO},
    "edited video": {"bernini_video": VIDEO},
    "edit references": {"bernini_reference_image": (OTHER,)},
    "poses": {"animate_pose_video": VIDEO},
    "face": {"animate_face_video": VIDEO},
    "background": {"animate_inpaint_video": VIDEO, "animate_mask_video": VIDEO},
}
# R: required, o: optional, -: refused, as are last ones left out; in the order of the columns.
TEXT, IMAGE, MASKED = "- - - - - - - - - o - -", "R o - - - - - - - - - -", "o o - - - - - o - - - -"
ENDED_CONTROL, VACE = "o o o o - - - - - - - -", "o o - - o o o - - o - -"
ROWS = {
    "wan2.1-t2v-demo": TEXT,
    "wan2.1-t2v-1.3b": TEXT,
    "wan2.1-t2v-14b": TEXT,
    "wan2.1-t2v": TEXT,
    "krea-realtime-14b": "- - - - - - - - - - - -",
    "bernini-r-a14b": f"{12 * '- '}- - - - o o",
    "bernini-r-1.3b": f"{12 * '- '}- - - - o o",
    "wan2.2-t2v-a14b": "- - - - - - - - - - - -",
    "wan2.2-ti2v-5b": "o - - - - - - - - - - -",
    "wan2.2-i2v-demo": "R - - - - - - - - - - -",
    "wan2.1-i2v-14b": "R o - - - - - - - - o -",
    "wan2.1-flf2v-14b": "R R - - - - - - - - o -",
    "wan2.2-i2v-a14b": IMAGE,
    "wan2.2-i2v": IMAGE,
    "wan2.1-fun-1.3b-inp": MASKED,
    "wan2.1-fun-inp": MASKED,
    "wan2.2-fun-a14b-inp": MASKED,
    "wan2.1-fun-control": "o - o - - - - - - - - -",
    "wan2.1-fun-v1.1-control": "o - o o - - - - - - - -",
    "wan2.2-fun-a14b-control": ENDED_CONTROL,
    "wan2.2-fun-control": ENDED_CONTROL,
    "wan2.2-fun-control-demo": "o - o - - - - - - - - -",
    "wan2.1-fun-v1.1-control-camera": "R - - - - - - - R - - -",
    "wan2.2-fun-a14b-control-camera": "R o - - - - - - R - - -",
    "wan2.2-fun-control-camera": "R o - - - - - - R - - -",
    "wan2.1-vace-1.3b": VACE,
    "wan2.1-vace-14b": VACE,
    "wan2.1-vace": VACE,
    "wan2.2-vace-fun-a14b": "o o - - o o o - - - - -",
    "longcat-video": "o - - - - - - - - - - - o o",
    "wan2.1-video-as-prompt-14b": "R o - - - - - - - - - R",
    "wan2.2-s2v-14b": "R - - - - - - - - - - - - - R o",
    "wan2.2-animate-14b": "R - - - - - - - - - - - - - - - - - R R o",
}


def codes_of(variant: Variant) -> dict[str, str]:
    return dict(zip_longest(COLUMNS, ROWS[variant.name].split(), fillvalue="-"))


CELLS = [
    pytest.param(variant, column, code, id=f"{variant.name}, {column}")
    for variant in VARIANTS
    for column, code in codes_of(variant).items()
]
# What one input is not given without.
NEEDED = {"end image": ("image",), "VACE mask": ("VACE video",)}


def request_of(*columns: str) -> GenerateRequest:
    given = {name: value for column in columns for name, value in COLUMNS[column].items()}
    return GenerateRequest("a cat", **given)


def required(variant: Variant, without: str = "") -> list[str]:
    codes = codes_of(variant).items()
    return [column for column, code in codes if code == "R" and column != without]


def refusal(request: GenerateRequest, variant: Variant) -> RequestError:
    """Why a run is refused; there is no model folder, so nothing can have been opened."""
    with pytest.raises(RequestError) as caught:
        settle_run(request, None, config_of(variant))
    return caught.value


def test_every_model_and_every_input_has_its_place():
    assert ROWS.keys() == {variant.name for variant in VARIANTS}
    placed = {name for given in COLUMNS.values() for name in given} | {"prompt", "input_video"}
    unplaced = set(INPUTS) - placed
    camera = {"camera_trajectory", "camera_control_speed", "camera_control_origin"}
    assert unplaced == {*camera, "negative_vap_prompt", "audio_embeds"}


@pytest.mark.parametrize(("variant", "column", "code"), CELLS)
def test_a_model_takes_or_refuses_an_input(variant: Variant, column: str, code: str):
    needs = [each for each in NEEDED.get(column, ()) if each not in required(variant)]
    if code == "-":
        error = refusal(request_of(*required(variant), *needs, column), variant)
        assert variant.title in error.message
        assert error.field in {name for each in (column, *needs) for name in COLUMNS[each]}
        return
    if code == "R":
        without = [each for each in required(variant, column) if each != "end image" or column != "image"]
        error = refusal(request_of(*without), variant)
        assert error.field in COLUMNS[column]
        assert f"missing: {variant.title} needs" in error.message
    else:
        check_inputs(request_of(*required(variant)), variant)
    check_inputs(request_of(*dict.fromkeys((*required(variant), *needs, column))), variant)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_model_begins_with_a_video(variant: Variant):
    given = {name: value for column in required(variant) for name, value in COLUMNS[column].items()}
    request = GenerateRequest("a cat", input_video=VIDEO, denoising_strength=0.5, **given)
    check_inputs(request, variant)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_input_that_a_model_takes_goes_with_all_others(variant: Variant):
    codes = codes_of(variant)
    taken = [column for column, code in codes.items() if code != "-" and column != "one frame"]
    taken = [column for column in taken if not set(COLUMNS[column]) & set(variant.inputs.shorthands)]
    check_inputs(request_of(*taken), variant)


def test_an_option_of_longcat_video_is_refused_by_others():
    (variant,) = (variant for variant in VARIANTS if variant.name == "wan2.1-t2v-14b")
    error = refusal(GenerateRequest("a cat", longcat_kv_cache=False), variant)
    assert (error.field, error.message) == (
        "longcat_kv_cache", "Wan2.1 T2V 14B keeps none. Leave the option out."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "field"),
    [
        ("wan2.1-vace-1.3b", {"image": PICTURE, "vace_video": VIDEO}, "image"),
        ("wan2.1-vace-1.3b", {"image": PICTURE, "vace_video_mask": VIDEO}, "image"),
        ("wan2.1-flf2v-14b", {"image": PICTURE, "end_image": OTHER, "input_video": VIDEO}, "input_video"),
        ("wan2.1-i2v-14b", {"image": PICTURE, "end_image": OTHER}, "end_image"),
        ("wan2.1-i2v-14b", {"image": PICTURE, "input_video": VIDEO}, "input_video"),
    ],
)
def test_inputs_that_exclude_each_other_are_refused(name: str, given: dict[str, Any], field: str):
    variant = next(variant for variant in VARIANTS if variant.name == name)
    one_frame = {} if variant.inputs.shorthands else COLUMNS["one frame"]
    assert refusal(GenerateRequest("a cat", **one_frame | given), variant).field == field


@pytest.mark.parametrize(
    ("given", "field", "other"),
    [
        ({"end_image": OTHER}, "end_image", "image"),
        ({"inpaint_video": VIDEO}, "inpaint_video", "inpaint_video_mask"),
        ({"inpaint_video_mask": VIDEO}, "inpaint_video_mask", "inpaint_video"),
        ({"denoising_strength": 0.5}, "denoising_strength", "input_video"),
        ({"target_index": 1}, "target_index", "control_image"),
        ({"control_image": (OTHER,)}, "control_image", "target_index"),
        ({"control_index": (0,)}, "control_index", "target_index"),
    ],
)
def test_an_input_that_is_nothing_alone_names_what_it_needs(given: dict[str, Any], field: str, other: str):
    with pytest.raises(RequestError, match=re.escape(flag_of(other))) as caught:
        GenerateRequest("a cat", **given)
    assert caught.value.field == field


def test_what_is_not_refused_goes_on_to_the_files():
    (variant,) = (variant for variant in VARIANTS if variant.name == "wan2.1-i2v-14b")
    with pytest.raises(MediaError, match="absent.png") as caught:
        settle_run(request_of("image", "one frame"), None, config_of(variant))
    assert isinstance(caught.value, MLXVideoError)
