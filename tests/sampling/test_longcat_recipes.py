"""LongCat-Video's recipes take the steps of its authors' code, and its own form of guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_video.config import SamplingDefaults
from mlx_video.sampling.guidance_forms.zero_star import ZeroStar, ZeroStarGuidance
from mlx_video.sampling.recipe import ModelSampling, SamplingChoices
from mlx_video.sampling.recipes.settle import adopt_recipe, settle_recipe
from mlx_video.sampling.recipes.table import RECIPES

MODEL = ModelSampling(
    "longcat", False, SamplingDefaults(steps=50, shift=12.0, guide_scale=(4.0, 4.0), recipe="longcat")
)
# Computed with the authors' formulas in float64.
DISTILLED = [
    1000, 994.709, 988.764, 982.036, 974.359, 965.517, 955.224, 943.089, 923.077, 904.110, 880.309, 849.558,
    808.290, 750, 661.417, 510.638,
]  # fmt: skip


def settle(name="longcat", model=MODEL, **choices):
    preset = RECIPES[name]
    defaults = adopt_recipe(preset, model.defaults, model.model_type)
    return settle_recipe(preset, SamplingChoices(**choices), replace(model, defaults=defaults))


def test_fifty_steps_are_even_before_the_shift():
    recipe = settle()
    timesteps = recipe.schedule.timesteps.tolist()
    assert (len(timesteps), recipe.solver, recipe.notices) == (50, "euler", ())
    assert timesteps[:3] == pytest.approx([1000, 998.269, 996.470], abs=5e-4)
    assert timesteps[-1] == pytest.approx(11.869, abs=5e-4)
    assert recipe.schedule.sigmas[-1] == 0


def test_a_video_that_goes_on_takes_ten_steps_below_the_middle():
    timesteps = settle(model=replace(MODEL, goes_on=True)).schedule.timesteps.tolist()
    assert len(timesteps) == 56
    assert min(timesteps[:46]) > 500
    assert timesteps[46:] == pytest.approx([500 - 50 * step for step in range(10)], abs=1e-3)


def test_the_distilled_adapter_takes_sixteen_steps_without_guidance():
    for model in (MODEL, replace(MODEL, goes_on=True)):
        recipe = settle("longcat-distilled", model)
        assert recipe.schedule.timesteps.tolist() == pytest.approx(DISTILLED, abs=5e-4)
        assert (set(recipe.guide_scale), recipe.prompts) == ({1.0}, {"positive"})


def test_refinement_takes_five_steps_from_the_middle_without_guidance():
    recipe = settle("longcat-refine")
    expected = [500, 443.022, 343.471, 207.772, 11.869]
    assert recipe.schedule.timesteps.tolist() == pytest.approx(expected, abs=5e-4)
    assert (set(recipe.guide_scale), recipe.steps) == ({1.0}, 5)


def test_guidance_scales_the_negative_prediction_in_every_step_unless_the_user_says_otherwise():
    found = settle().guidance["model"]
    assert isinstance(found, ZeroStarGuidance)
    assert (found.zero_steps, found.inner.scale) == (0, 4.0)
    assert settle(guidance_forms=(ZeroStar(2),)).guidance["model"].zero_steps == 2
