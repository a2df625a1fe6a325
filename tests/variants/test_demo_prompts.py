"""A prompt that the demo models cannot follow gets a remark that says why, and what they draw."""

from __future__ import annotations

import pytest

from mlx_video.variants.demo_prompts import remark_on_demo_prompt, remark_on_guided_prompt
from mlx_video.variants.registry import VARIANTS

GUIDED = (
    "a {red, green, blue, yellow, purple, cyan} {circle, square, triangle, cross} "
    "on a {black, white, gray} background"
)


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("a cat on the grass", 'not trained on "cat", "the", "grass"; '),
        ("a red circle moving right on a grey background", 'not trained on "grey"; '),
        ("a red circle growing on a gray background", 'not trained on "growing"; '),
        ("红色的圆", 'not trained on "红色的圆"; '),
        ("a red circle on a white background", "with exactly one motion; "),
        ("a red circle moving right on a red background", "with exactly one background; "),
        ("a red circle a blue cross moving up on a white background", "with exactly one coloured shape; "),
        ("circle moving up", "with exactly one coloured shape, one background; "),
    ],
)
def test_the_remark_names_what_the_models_do_not_know(prompt: str, fault: str):
    remark = remark_on_demo_prompt(prompt)
    assert fault in remark
    assert "{circle, square, triangle, cross}" in remark


@pytest.mark.parametrize(
    "prompt",
    ["A  Red circle\nmoving right on a white background.", "purple cross standing still, black background"],
)
def test_case_spaces_and_marks_do_not_matter(prompt: str):
    assert remark_on_demo_prompt(prompt) == ""


def test_a_prompt_beside_a_control_video_may_name_a_motion_or_none():
    assert remark_on_guided_prompt("a red circle on a white background") == ""
    assert remark_on_guided_prompt("a red circle moving left on a white background") == ""
    assert "with exactly one coloured shape; " in remark_on_guided_prompt("a circle on a white background")
    assert remark_on_guided_prompt("a red cat").endswith("It draws: " + GUIDED + ".")


def test_only_the_demo_models_have_a_remark_on_prompts():
    assert {variant.name for variant in VARIANTS if variant.remark_on_prompt} == {
        "wan2.1-t2v-demo",
        "wan2.2-i2v-demo",
        "wan2.2-fun-control-demo",
    }
