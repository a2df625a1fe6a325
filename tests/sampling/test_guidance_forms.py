"""Forms of guidance: patterns as published, formulas in float64, and forms within forms."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import SamplingDefaults
from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import NEGATIVE, POSITIVE, ClassifierFreeGuidance
from mlx_video.sampling.guidance_forms.form import wrap_guidance
from mlx_video.sampling.guidance_forms.limited_steps import (
    SKIP_MODES,
    GuidanceRange,
    SkippedGuidance,
    applied_steps,
)
from mlx_video.sampling.guidance_forms.normalized_attention import NormalizedAttention
from mlx_video.sampling.guidance_forms.projected import ProjectedGuidanceForm
from mlx_video.sampling.guidance_forms.skip_layer import SkipLayers
from mlx_video.sampling.guidance_forms.zero_star import ZeroStar
from mlx_video.sampling.recipe import ModelSampling, SamplingChoices
from mlx_video.sampling.recipes.official import OFFICIAL
from mlx_video.sampling.recipes.settle import settle_recipe

SHAPE = (2, 3, 4, 5)
SCALE = 5.0


def step(index: int, count: int = 10) -> Step:
    return Step(index, count, 1000.0 - index, 1 - index / count, 1 - (index + 1) / count)


def random(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE)


C, U, S = random(0), random(1), random(2)


def combine(guidance, index: int, *velocities: np.ndarray, kept=None) -> np.ndarray:
    arrays = [mx.array(velocity.astype(np.float32)) for velocity in velocities]
    latents = mx.zeros(SHAPE)
    kept = {} if kept is None else kept
    return np.array(guidance.combine(step(index), latents, arrays, kept), np.float64)


def names(guidance, index: int) -> list[str]:
    return [branch.name for branch in guidance.branches(step(index))]


def wrap(*forms, scale: float = SCALE, count: int = 10):
    return wrap_guidance(ClassifierFreeGuidance(scale), forms, count)


# Steps with guidance


def spelled(text: str) -> str:
    """ "S4 A6" → "SSSSAAAAAA"."""
    return "".join(word[0] * int(word[1:]) for word in text.split())


PATTERNS = [
    (10, 0.6, "S4 A6", "A6 S4", "A3 S4 A3", "S2 A6 S2", "SASASAASAS"),
    (10, 0.7, "S3 A7", "A7 S3", "A3 S3 A4", "S1 A7 S2", "SAASAASAAS"),
    (20, 0.5, "S10 A10", "A10 S10", "A5 S10 A5", "S5 A10 S5", "SA" * 10),
    (20, 0.7, "S6 A14", "A14 S6", "A7 S6 A7", "S3 A14 S3", "SAASAASAASAAASAASAAS"),
    (4, 0.5, "S2 A2", "A2 S2", "A1 S2 A1", "S1 A2 S1", "SASA"),
]


@pytest.mark.parametrize("row", PATTERNS)
def test_patterns_are_the_published_ones(row):
    count, ratio, early, late, middle, early_late, alternate = row
    expected = {
        "early": spelled(early),
        "late": spelled(late),
        "middle": spelled(middle),
        "early_late": spelled(early_late),
        "alternate": alternate,
    }
    assert set(expected) == set(SKIP_MODES)
    for mode, letters in expected.items():
        found = "".join("A" if one else "S" for one in applied_steps(mode, ratio, count))
        assert found == letters, mode


def test_a_step_without_guidance_takes_the_prompts_prediction_alone():
    guidance = wrap(SkippedGuidance("late", 0.6))
    assert names(guidance, 5) == ["positive", "negative"]
    assert names(guidance, 6) == ["positive"]
    np.testing.assert_allclose(combine(guidance, 5, C, U), U + SCALE * (C - U), atol=1e-5)
    np.testing.assert_allclose(combine(guidance, 6, C), C, atol=1e-6)
    assert "AAAAAASSSS (A applies it, S skips it); 20% fewer forwards" in SkippedGuidance(
        "late", 0.6
    ).describe(10)


def test_a_range_is_a_part_of_the_run():
    guidance = wrap(GuidanceRange(0.2, 0.6))
    assert [len(names(guidance, index)) for index in range(10)] == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]
    late = wrap(GuidanceRange(end=0.6))
    assert [len(names(late, index)) for index in range(10)] == [2] * 6 + [1] * 4


# CFG-Zero*


def test_the_negative_prediction_is_scaled_to_fit():
    alpha = np.sum(C * U) / (np.sum(U * U) + 1e-8)
    expected = alpha * U + SCALE * (C - alpha * U)
    np.testing.assert_allclose(combine(wrap(ZeroStar(0)), 0, C, U), expected, atol=2e-5)


def test_the_first_steps_stay_without_a_forward():
    guidance = wrap(ZeroStar(2))
    assert (names(guidance, 0), names(guidance, 1)) == ([], [])
    assert names(guidance, 2) == ["positive", "negative"]
    assert not combine(guidance, 1).any()
    assert combine(guidance, 2, C, U).any()
    assert ZeroStar(2).describe(10) == "CFG-Zero*: 2 of 10 steps make no forward."


# Adaptive projected guidance


def render_apg(c, u, g, eta, momentum, limit, average):
    """The form in which the prediction is c + (g - 1)·update."""
    average = (c - u) + momentum * average
    scaled = average * min(1.0, (limit or np.inf) / np.sqrt(np.sum(average**2)))
    along = np.sum(scaled * c) / np.sum(c * c) * c
    return c + (g - 1) * ((scaled - along) + eta * along), average


@pytest.mark.parametrize(
    ("eta", "momentum", "limit"), [(0.0, -0.75, 55.0), (0.0, -0.75, 3.0), (1.0, 0.0, 15.0), (0.5, 0.3, 0.0)]
)
def test_projected_guidance_follows_its_formula_from_step_to_step(eta, momentum, limit):
    guidance, kept, average = wrap(ProjectedGuidanceForm(eta, momentum, limit)), {}, np.zeros(SHAPE)
    for index in range(4):
        c, u = random(10 + index), random(20 + index)
        expected, average = render_apg(c, u, SCALE, eta, momentum, limit, average)
        np.testing.assert_allclose(combine(guidance, index, c, u, kept=kept), expected, atol=5e-5)


def test_projected_guidance_that_holds_nothing_back_is_the_official_one():
    found = combine(wrap(ProjectedGuidanceForm(1.0, 0.0, 0.0)), 0, C, U)
    np.testing.assert_allclose(found, U + SCALE * (C - U), atol=2e-5)


# Skip-layer guidance


def test_a_third_prediction_pushes_away():
    guidance = wrap(SkipLayers(frozenset({9}), scale=3.0, end=0.3))
    assert [len(names(guidance, index)) for index in range(4)] == [3, 3, 3, 2]
    shallow = guidance.branches(step(0))[2]
    assert (shallow.prompt, shallow.skip_layers) == ("negative", {9})
    expected = U + SCALE * (C - U) + 3.0 * (C - S)
    np.testing.assert_allclose(combine(guidance, 0, C, U, S), expected, atol=2e-5)
    np.testing.assert_allclose(combine(guidance, 3, C, U), U + SCALE * (C - U), atol=1e-5)
    assert len(guidance.all_branches) == 3


def test_the_negative_prediction_may_lack_the_layers_itself():
    guidance = wrap(SkipLayers(frozenset({1, 2}), mode="uncond", start=0.1, end=0.25))
    assert names(guidance, 0) == ["positive", "negative"]
    assert names(guidance, 1) == ["positive", "skipped layers"]
    assert names(guidance, 2) == ["positive", "negative"]
    np.testing.assert_allclose(combine(guidance, 1, C, S), S + SCALE * (C - S), atol=1e-5)


def test_the_third_prediction_may_be_under_the_prompt():
    guidance = wrap(SkipLayers(frozenset({9}), prompt="positive"))
    assert guidance.branches(step(0))[2].prompt == "positive"


# Normalized attention


@pytest.mark.parametrize("scale", [1.5, 5.0, 11.0])
def test_attention_is_pushed_away_within_its_limit(scale):
    rng = np.random.default_rng(3)
    p, q = rng.normal(size=(2, 1, 2, 6, 4))
    q[0, :, 0] = p[0, :, 0]  # one token that does not differ
    g = scale * p - (scale - 1) * q
    size, pushed = (np.abs(a).sum(axis=(1, 3), keepdims=True) for a in (p, g))
    g = np.where(pushed / size > 3.5, g * 3.5 * size / (pushed + 1e-7), g)
    found = NormalizedAttention(scale).push_apart(*(mx.array(a.astype(np.float32)) for a in (p, q)))
    np.testing.assert_allclose(np.array(found), 0.5 * g + 0.5 * p, rtol=0, atol=3e-5)


def test_results_of_half_types_are_pushed_in_float32():
    rng = np.random.default_rng(4)
    halves = [mx.array(rng.normal(size=(1, 2, 6, 64)).astype(np.float32)).astype(mx.bfloat16) for _ in "pn"]
    found = NormalizedAttention(4.0).push_apart(*halves)
    expected = NormalizedAttention(4.0).push_apart(*(half.astype(mx.float32) for half in halves))
    assert found.dtype == mx.bfloat16
    assert mx.array_equal(found, expected.astype(mx.bfloat16))


def test_attention_to_nothing_stays_finite():
    found = NormalizedAttention(11.0).push_apart(mx.zeros((1, 2, 3, 4)), mx.zeros((1, 2, 3, 4)))
    assert not np.array(found).any()


def test_normalized_attention_reads_the_negative_prompt_without_a_forward():
    guidance = wrap(NormalizedAttention(5.0), scale=1.0)
    assert guidance.prompts == {"positive", "negative"}
    (branch,) = guidance.all_branches
    assert branch.name == "positive"
    assert branch.make_attention is not None
    positive, negative = wrap(NormalizedAttention(5.0)).branches(step(0))
    assert positive.make_attention is not None
    assert negative == NEGATIVE
    assert wrap(NormalizedAttention(1.0), scale=1.0).all_branches == (POSITIVE,)


# Together


def test_forms_lie_within_each_other_in_any_order():
    forms = [
        ZeroStar(1),
        SkipLayers(frozenset({9}), end=0.5),
        ProjectedGuidanceForm(),
        SkippedGuidance("late", 0.8),
        NormalizedAttention(4.0),
    ]
    found = []
    for order in (forms, forms[::-1]):
        guidance = wrap(*order)
        assert [len(names(guidance, index)) for index in range(10)] == [0, 3, 3, 3, 3, 2, 2, 2, 1, 1]
        found.append(combine(guidance, 2, C, U, S))
    np.testing.assert_array_equal(*found)
    alpha = np.sum(C * U) / (np.sum(U * U) + 1e-8)
    apg, _ = render_apg(C, alpha * U, SCALE, 0.0, -0.75, 55.0, 0)
    np.testing.assert_allclose(found[0], apg + 3.0 * (C - S), atol=5e-5)


@pytest.mark.parametrize(
    "form", [ZeroStar(), SkipLayers(frozenset({1})), ProjectedGuidanceForm(), GuidanceRange(0.5)]
)
def test_without_guidance_a_form_changes_nothing_and_that_is_said(form):
    model = ModelSampling("t2v", False, SamplingDefaults(guide_scale=(1.0, 1.0)))
    recipe = settle_recipe(OFFICIAL, SamplingChoices(guidance_forms=(form,)), model)
    assert recipe.guidance["model"].all_branches == (POSITIVE,)
    assert recipe.notices == (f"{form.setting}: has no effect in a run without guidance, at guide scale 1.",)


def test_an_expert_at_scale_one_makes_one_forward_whatever_the_form():
    model = ModelSampling("t2v", True, SamplingDefaults(guide_scale=(1.0, 4.0), boundary=0.875))
    recipe = settle_recipe(OFFICIAL, SamplingChoices(guidance_forms=(ZeroStar(0),)), model)
    assert len(recipe.guidance["low_noise"].all_branches) == 1
    assert len(recipe.guidance["high_noise"].all_branches) == 2
