"""Recipes: noise levels, solver, guidance and the split of the experts, as published, and choices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_video.config import SamplingDefaults
from mlx_video.errors import ConfigError, RequestError
from mlx_video.sampling.experts import count_high_noise_steps, split_at_boundary
from mlx_video.sampling.recipe import ModelSampling, Recipe, SamplingChoices
from mlx_video.sampling.recipes.settle import adopt_recipe, settle_recipe
from mlx_video.sampling.recipes.table import RECIPES, find_recipe, recognise_recipe
from mlx_video.sampling.schedule import build_schedule

T2V = ModelSampling("t2v", False, SamplingDefaults())
TI2V = ModelSampling("ti2v", False, SamplingDefaults())
FLF2V = ModelSampling("flf2v", False, SamplingDefaults(shift=16.0))
EXPERTS = ModelSampling(
    "t2v", True, SamplingDefaults(steps=40, shift=12.0, guide_scale=(3.0, 4.0), boundary=0.875)
)

# Model, σ of each step, timesteps as the network sees them, steps of the high-noise expert.
LIGHTX2V = [1, 0.9375, 0.833333, 0.625]
SELF_FORCING_DUAL = [1, 0.985507, 0.965517, 0.93617, 0.865979, 0.819876, 0.75, 0.631579]
CAUSVID = [1000, 934, 862, 756, 603, 410, 250, 140, 74]
PUBLISHED = [
    ("lightx2v", T2V, LIGHTX2V, [1000, 937.5, 833.33, 625], None),
    ("lightx2v", FLF2V, [1, 0.979592, 0.941176, 0.842105], None, None),
    ("lightx2v", EXPERTS, LIGHTX2V, None, 2),
    ("lightning", EXPERTS, LIGHTX2V, None, 2),
    ("meanflow", T2V, [1, 0.833333], None, None),
    ("meanflow", EXPERTS, [1, 0.833333], None, 1),
    ("causvid", T2V, [step / 1000 for step in CAUSVID], CAUSVID, None),
    ("self-forcing", T2V, [1, 0.958217, 0.899664, 0.702715], None, None),
    ("self-forcing", EXPERTS, SELF_FORCING_DUAL, None, 4),
    ("fastwan", T2V, [1, 0.756757, 0.521739], [1000, 757, 522], None),
    ("fastwan", TI2V, [1, 0.756757, 0.521739], [1000, 757, 522], None),
    ("fastmetal", T2V, [1, 0.756757, 0.521739], [1000, 757, 522], None),
    ("fastmetal", TI2V, [1, 0.939672, 0.845207], [1000, 939.67, 845.21], None),
    ("direct-distill", T2V, [1, 0.9375, 0.833333, 0.625], None, None),
    ("krea", T2V, [1, 0.990099, 0.97561, 0.952381, 0.909091, 0.8], None, None),
]
RENOISING = {"causvid", "self-forcing", "fastwan", "fastmetal"}


def settle(name: str, model: ModelSampling = T2V, **choices) -> Recipe:
    preset = RECIPES[name]
    defaults = (
        adopt_recipe(preset, model.defaults, model.model_type) if name != "official" else model.defaults
    )
    return settle_recipe(preset, SamplingChoices(**choices), replace(model, defaults=defaults))


@pytest.mark.parametrize(("name", "model", "sigmas", "timesteps", "high"), PUBLISHED)
def test_a_recipe_takes_the_published_steps(name, model, sigmas, timesteps, high):
    recipe = settle(name, model)
    assert recipe.schedule.sigmas.tolist() == pytest.approx([*sigmas, 0], abs=5e-7)
    timesteps = timesteps or [1000 * sigma for sigma in sigmas]
    assert recipe.schedule.timesteps.tolist() == pytest.approx(timesteps, abs=5e-3)
    assert recipe.solver == ("lcm" if name in RENOISING else "euler")
    assert set(recipe.guide_scale) == {1.0}
    assert recipe.prompts == {"positive"}
    if high is None:
        assert recipe.expert_split is None
    else:
        assert count_high_noise_steps(recipe.schedule, recipe.expert_split) == high


def test_every_recipe_is_tested():
    """Those of LongCat-Video and Bernini-R are, in files of their own."""
    assert {name for name, *_ in PUBLISHED} | {
        "official",
        "bernini",
        "longcat",
        "longcat-distilled",
        "longcat-refine",
    } == set(RECIPES)


def test_two_by_two_steps_are_what_both_boundaries_make_of_shift_5_but_not_of_8():
    at_5, at_8 = (build_schedule("euler", 4, shift) for shift in (5.0, 8.0))
    for boundary in (0.875, 0.9):
        assert count_high_noise_steps(at_5, split_at_boundary(boundary)) == 2
    assert count_high_noise_steps(at_8, split_at_boundary(0.875)) == 3
    recipe = settle("lightning", EXPERTS, shift=8.0)
    assert recipe.schedule.sigmas.tolist() == pytest.approx([1, 0.96, 0.888889, 0.727273, 0], abs=5e-7)
    assert count_high_noise_steps(recipe.schedule, recipe.expert_split) == 2


def test_the_official_recipe_is_the_models_defaults():
    recipe = settle("official", EXPERTS)
    assert recipe.schedule.sigmas.tolist() == build_schedule("unipc", 40, 12.0).sigmas.tolist()
    assert (recipe.solver, recipe.guide_scale, recipe.boundary) == ("unipc", (3.0, 4.0), 0.875)
    assert recipe.guidance["high_noise"].scale == 4.0
    assert count_high_noise_steps(recipe.schedule, recipe.expert_split) == 26
    assert recipe.notices == ()
    assert recipe.settings == {}


# The user's choices


def test_guidance_on_a_distilled_model_is_said():
    for name in RECIPES.keys() - {"official", "longcat", "bernini"}:
        (text,) = (text for text in settle(name, guide_scale=(5.0, 5.0)).notices if "distilled model" in text)
        assert text == (
            "Guide scale 5 on a distilled model: it learned to do without, so the video blurs and each step "
            "takes twice as long. Leave --guide-scale out."
        )
    assert not any("distilled" in text for text in settle("official", guide_scale=(5.0, 5.0)).notices)


@pytest.mark.parametrize("name", ["lightning", "lightx2v"])
@pytest.mark.parametrize(("strength", "high"), [(1.0, 2), (0.75, 2), (0.6, 1), (0.5, 0)])
def test_a_strength_at_which_an_expert_never_serves_is_said(name: str, strength: float, high: int):
    """All four steps lie below the level that the video is begun with; the experts' share stays."""
    recipe = settle(name, EXPERTS, strength=strength)
    assert recipe.schedule.steps == 4
    assert count_high_noise_steps(recipe.schedule, recipe.expert_split) == high
    told = [text for text in recipe.notices if "expert" in text]
    assert told == [
        "The high-noise expert serves no step, so neither it nor its adapters count. Choose a "
        f"--denoising-strength above {strength:g}, or another --expert-steps or --boundary."
    ] * (high == 0)


def test_choices_win_over_the_recipe_and_are_said():
    recipe = settle("lightning", EXPERTS, steps=6, solver="unipc", guide_scale=(2.0, 1.0))
    assert recipe.steps == 6
    assert count_high_noise_steps(recipe.schedule, recipe.expert_split) == 3
    text = "\n".join(recipe.notices)
    assert "--scheduler unipc takes the place of the recipe's euler." in text
    assert "--steps 6 takes the place of the recipe's 4." in text
    assert "--guide-scale 2,1 takes the place of the recipe's 1." in text
    assert "Guide scale 2,1 on a distilled model: it learned to do without" in text


def test_another_number_of_steps_takes_the_place_of_a_trained_list():
    recipe = settle("fastwan", steps=4)
    assert recipe.schedule.sigmas.tolist() == build_schedule("lcm", 4, 5.0).sigmas.tolist()
    assert any("--steps 4 takes the place of the recipe's 3" in text for text in recipe.notices)
    assert settle("fastwan", steps=3).schedule.timesteps.tolist() == [1000, 757, 522]


def test_lists_of_levels_or_timesteps_win():
    assert settle("fastwan", sigmas=(1.0, 0.5)).schedule.sigmas.tolist() == [1, 0.5, 0]
    recipe = settle("official", timesteps=(999.0, 500.0))
    assert recipe.schedule.timesteps.tolist() == [999, 500]
    assert recipe.settings == {"timesteps": "999.0,500.0"}


def test_a_spacing_wins():
    recipe = settle("fastwan", spacing="karras", steps=8)
    assert recipe.schedule.sigmas[1] == pytest.approx(0.57558, abs=1e-5)
    assert recipe.settings == {"recipe": "fastwan", "noise_levels": "karras"}


@pytest.mark.parametrize(
    ("model", "sigmas"), [(TI2V, [1, 0.939672, 0.845207, 0]), (T2V, [1, 6.056 / 6.299, 4.176 / 4.654, 0])]
)
def test_the_steps_of_fastwan_are_moved_on_demand(model, sigmas):
    recipe = settle("fastwan", model, warps=True)
    assert recipe.schedule.sigmas.tolist() == pytest.approx(sigmas, abs=5e-7)
    assert recipe.settings["dmd_warp"] == "on"
    unmoved = settle("fastmetal", TI2V, warps=False)
    assert unmoved.schedule.timesteps.tolist() == [1000, 757, 522]


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_sde"])
@pytest.mark.parametrize("number", [0, 1, 3, 6])
def test_experts_are_split_between_steps_even_where_a_step_has_two_velocities(solver, number):
    recipe = settle("official", EXPERTS, steps=6, solver=solver, expert_steps=number)
    high = count_high_noise_steps(recipe.schedule, recipe.expert_split)
    whole = {"euler": number, "heun": 2 * number, "dpmpp_sde": 2 * number}[solver]
    assert high == min(whole, recipe.schedule.steps)
    assert recipe.steps == 6
    assert recipe.settings["expert_steps"] == str(number)
    is_said = any("expert serves no step" in text for text in recipe.notices)
    assert is_said == (number in (0, 6))


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"sigmas": (1.0,), "timesteps": (999.0,)}, "timesteps: beside sigmas: both say where"),
        ({"sigmas": (1.0,), "spacing": "karras"}, "noise_levels: beside sigmas"),
        ({"sigmas": (1.0, 0.5), "steps": 3}, "steps: 3: sigmas lists 2 steps"),
        ({"warps": True}, "dmd_warp: this run takes no list of trained steps"),
        ({"expert_steps": 2}, "expert_steps: 2: this model has one transformer"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(choices, text):
    with pytest.raises(RequestError, match=text):
        settle("official", **choices)


def test_a_number_of_steps_beyond_the_run_or_beside_a_boundary_is_refused():
    with pytest.raises(RequestError, match="expert_steps: 5: must be between 0 and 4"):
        settle("lightning", EXPERTS, expert_steps=5)
    with pytest.raises(RequestError, match="expert_steps: beside --boundary"):
        settle("lightning", EXPERTS, expert_steps=2, boundary=0.5)


def test_a_boundary_wins_over_the_split_in_half():
    recipe = settle("lightning", EXPERTS, boundary=0.95)
    assert recipe.boundary == 0.95
    assert count_high_noise_steps(recipe.schedule, recipe.expert_split) == 1


# Names


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors", "lightx2v"),
        ("wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors", "lightx2v"),
        ("Wan2.2-Lightning/Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1", "lightning"),
        ("FastWan2.2-TI2V-5B-FullAttn-Diffusers", "fastwan"),
        ("WanDMDPipeline", "fastwan"),
        ("FastMetal-1.3B-QAD", "fastmetal"),
        ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", "causvid"),
        ("self_forcing_dmd.pt", "self-forcing"),
        ("Wan2.1-T2V-14B-MeanFlow", "meanflow"),
        ("krea-realtime-video-14b.safetensors", "krea"),
    ],
)
def test_a_recipe_is_recognised_by_its_models_names(name, recipe):
    assert recognise_recipe(["model", name]).name == recipe


@pytest.mark.parametrize("name", ["Wan2.1-T2V-14B", "oil painting 2014steps", "AccVid_T2V_14B", "fast_walk"])
def test_other_names_have_no_recipe(name):
    assert recognise_recipe([name]) is None


def test_an_unknown_recipe_is_refused_with_the_choices():
    with pytest.raises(RequestError, match="recipe: turbo: this version knows official, fastwan"):
        find_recipe("turbo")
    with pytest.raises(ConfigError, match="config.json: 'recipe' is 'turbo'; this version knows"):
        find_recipe("turbo", where="config.json")
