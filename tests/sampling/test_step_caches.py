"""Step caches: plans as published, decisions by their formulas, and what they refuse."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import RequestError
from mlx_video.models.block_context import BlockContext, Step, TimeFeatures
from mlx_video.models.token_layout import TokenSpan, video_layout
from mlx_video.sampling.experts import split_at_boundary, split_at_step
from mlx_video.sampling.guidance import NEGATIVE, POSITIVE, Branch, ClassifierFreeGuidance
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.step_caches.easycache import EasyCache, EasyPredictions
from mlx_video.sampling.step_caches.first_block import FirstBlockCache, FirstBlockDecision
from mlx_video.sampling.step_caches.magcache import MagCache, MagLimits, plan_skips, resample
from mlx_video.sampling.step_caches.residual import ResidualCache
from mlx_video.sampling.step_caches.step_cache import CacheFacts
from mlx_video.sampling.step_caches.table import STEP_CACHES
from mlx_video.sampling.step_caches.tables import EXPERT_RATIOS, MAGNITUDES
from mlx_video.sampling.step_caches.teacache import NUMBERS, TeaCache, TeaDecision, TeaRule, find_threshold

GUIDED = {"model": ClassifierFreeGuidance(5.0)}
EXPERTS = {"high_noise": ClassifierFreeGuidance(4.0), "low_noise": ClassifierFreeGuidance(3.0)}


def facts_of(variant: str, steps: int = 50, shift: float = 5.0, **changes) -> CacheFacts:
    return CacheFacts(variant, build_schedule("unipc", steps, shift), GUIDED, **changes)


# MagCache

PLANS = [
    ("t2v-1.3b", 50, 0.12, 2, 0.2, "CCCCCCCCCCssCssCssCssCssCssCssCssCssCssCssCsCsCsCC", 25),
    ("t2v-1.3b", 50, 0.12, 4, 0.2, "CCCCCCCCCCssssCssssCssssCssssCssssCsssCssCssCsCsCC", 21),
    ("t2v-14b", 50, 0.12, 2, 0.2, "CCCCCCCCCCssCssCssCssCssCssCssCssCssCssCssCsCsCsCC", 25),
    ("t2v-14b", 50, 0.24, 6, 0.2, "CCCCCCCCCCssssssCssssssCssssssCsssssCssssCssCssCsC", 18),
    ("i2v-14b-480p", 40, 0.24, 6, 0.2, "CCCCCCCCssssssCsssssCssssCssssCsssCssCsC", 15),
    ("i2v-14b-720p", 40, 0.24, 6, 0.2, "CCCCCCCCssssssCssssssCsssssCssssCssCssCs", 14),
    ("t2v-a14b", 40, 0.06, 2, 0.4, "CCCCCCCCCCCCCCCCssCssCssCsCssCssCsCsCCCC", 27),
    ("i2v-a14b", 40, 0.06, 2, 0.1, "CCCCssCssCssCssCssCssCssCssCsCsCsCsCCCCC", 20),
    ("ti2v-5b", 50, 0.06, 2, 0.2, "CCCCCCCCCCssCssCssCssCssCssCssCssCssCsCsCsCsCsCsCs", 25),
    ("ti2v-5b-image", 50, 0.06, 2, 0.2, "CCCCCCCCCCssCssCssCssCssCssCssCssCssCsCsCsCsCsCCCs", 26),
    ("t2v-1.3b", 20, 0.12, 4, 0.2, "CCCCssssCssssCssCsCC", 9),
    ("t2v-14b", 30, 0.24, 6, 0.2, "CCCCCCssssssCssssssCssssCssCsC", 11),
    ("t2v-a14b", 20, 0.06, 2, 0.4, "CCCCCCCCssCssCssCsCC", 13),
]


@pytest.mark.parametrize(("model", "steps", "error", "skips", "retention", "plan", "runs"), PLANS)
def test_plans_are_the_published_ones(model, steps, error, skips, retention, plan, runs):
    table, limits = MAGNITUDES[model], MagLimits(error, skips, retention)
    for ratios in (table.positive, table.negative):
        assert plan_skips(resample(ratios, steps), limits, [True] * steps) == plan
    assert plan.count("C") == runs


def test_tables_begin_with_one_and_show_the_swap_of_the_experts():
    assert all(table.positive[0] == table.negative[0] == 1 for table in MAGNITUDES.values())
    assert np.argmin(MAGNITUDES["t2v-a14b"].positive) == 26
    assert MAGNITUDES["i2v-a14b"].negative[15] == 0.91046
    assert (len(MAGNITUDES["t2v-14b"].positive), len(MAGNITUDES["i2v-14b-480p"].negative)) == (50, 40)


# Name → steps, and the beginnings of the digests of both lists as published, numbers with blanks between.
DIGESTS = {
    "t2v-1.3b": (50, "b283937c0ec2f98b", "0b6eec3d9981e77d"),
    "t2v-14b": (50, "bbf01e6010d300c4", "eee5c4bfa1a6a61c"),
    "i2v-14b-480p": (40, "03252d02f7f06feb", "1230cc6cf12ce0fb"),
    "i2v-14b-720p": (40, "5d75dd7fe67f694f", "78fae0ee235b4b85"),
    "t2v-a14b": (40, "de50f1cf8ef2d693", "1109b60f704ab0f7"),
    "i2v-a14b": (40, "3aa0ba3e0e89e9ee", "fcb751700fa41b00"),
    "ti2v-5b": (50, "6370eb0190acab68", "3a99feac9f48e504"),
    "ti2v-5b-image": (50, "32f58d5fa40c0765", "603bdb14dc32a853"),
}


def digest(ratios: Sequence[float]) -> str:
    return hashlib.sha256(" ".join(map(repr, ratios)).encode()).hexdigest()[:16]


def test_every_published_table_is_there_to_the_last_digit():
    found = {
        name: (len(table.positive), digest(table.positive), digest(table.negative))
        for name, table in MAGNITUDES.items()
    }
    assert found == DIGESTS
    assert all(len(table.positive) == len(table.negative) for table in MAGNITUDES.values())


def test_the_last_step_is_kept_on_demand():
    ratios, limits = resample(MAGNITUDES["ti2v-5b"].positive, 50), MagLimits(0.06, 2, 0.2)
    kept = plan_skips(ratios, limits, [True] * 50, keeps_last=True)
    assert kept == plan_skips(ratios, limits, [True] * 50)[:-1] + "C"


def test_a_branch_that_comes_back_runs_after_two_steps_of_absence():
    limits = MagLimits(10.0, 99, 0.0)
    active = [True, True, False, True, False, False, True, True]
    assert plan_skips([1.0] * 8, limits, active) == "Cs-s--Cs"


def test_steps_of_absence_age_what_is_kept():
    limits = MagLimits(0.15, 99, 0.0)
    assert plan_skips([1.0, 0.9, 0.9], limits, [True, True, True]) == "CsC"
    assert plan_skips([1.0, 0.9, 0.9], limits, [True, False, True]) == "C-C"
    assert plan_skips([1.0, 1.0, 0.9], limits, [True, False, True]) == "C-s"


def test_the_plan_is_told_with_what_it_saves():
    (text,) = MagCache(keeps_last=False).settle(facts_of("wan2.1-t2v-1.3b")).notices
    assert "CCCCCCCCCCssCssCssCssCssCssCssCssCssCssCssCsCsCsCC (C runs the blocks, s skips them)" in text
    assert "50 of 100 forwards run, 2.00 times fewer." in text


def test_each_expert_begins_with_a_step_that_runs():
    schedule = build_schedule("unipc", 40, 12.0)
    facts = CacheFacts("wan2.2-t2v-a14b", schedule, EXPERTS, split_at_boundary(0.875))
    (text,) = MagCache().settle(facts).notices
    assert "CCCCCCCCCCCCCCCCssCssCssCsCssCssCsCsCCCC" in text
    assert "54 of 80 forwards run, 1.48 times fewer" in text
    # A step earlier the swap falls into a row of skips, and breaks it.
    facts = replace(facts, expert_split=split_at_step(25))
    (text,) = MagCache().settle(facts).notices
    assert "CCCCCCCCCCCCCCCCssCssCssCCCssCssCsCsCCCC" in text


def test_experts_that_swap_elsewhere_have_ratios_of_their_own():
    schedule = build_schedule("unipc", 40, 12.0)
    facts = CacheFacts("wan2.2-t2v-a14b", schedule, EXPERTS, split_at_step(17))
    told, plan = MagCache().settle(facts).notices
    assert "the experts swap elsewhere than in the published run" in told
    # Two fifths of each expert's own steps run: 6 of 17 and 9 of 23.
    assert plan.split(": ")[1].startswith("CCCCCCssCssCssCssCCCCCCCCCssCsCsCsCsCCCC ")
    own, limits = EXPERT_RATIOS["t2v-a14b"], MagLimits(0.06, 2, 0.4)
    high, low = (
        plan_skips(resample(ratios, steps), limits, [True] * steps)
        for ratios, steps in ((own.high_noise, 17), (own.low_noise, 23))
    )
    assert f": {high}{low} " in plan
    # At the published boundaries the numbers over the whole run are taken, whatever the number of steps.
    for variant, shift, boundary in (("t2v", 12.0, 0.875), ("i2v", 5.0, 0.9)):
        for steps in (20, 25, 30, 40, 50):
            usual = CacheFacts(
                f"wan2.2-{variant}-a14b",
                build_schedule("unipc", steps, shift),
                EXPERTS,
                split_at_boundary(boundary),
            )
            assert len(MagCache().settle(usual).notices) == 1


def test_ratios_of_single_experts_are_there_to_the_last_digit():
    found = {
        name: [(len(one), digest(one)) for one in (own.high_noise, own.low_noise)]
        for name, own in EXPERT_RATIOS.items()
    }
    assert found == {
        "t2v-a14b": [(32, "c029c0ab91dc27ce"), (18, "07ef2ad0821d302f")],
        "i2v-a14b": [(18, "ade59dac83ea00cc"), (32, "7daf944f8c3a9d0b")],
    }


def test_numbers_are_chosen_by_image_and_size():
    settle = MagCache().settle
    text = settle(facts_of("wan2.2-ti2v-5b")).setting
    assert text != settle(facts_of("wan2.2-ti2v-5b", has_image=True)).setting
    small = settle(facts_of("wan2.1-i2v-14b", 40, pixels=832 * 480)).setting
    large = settle(facts_of("wan2.1-i2v-14b", 40, pixels=1280 * 720)).setting
    assert small != large
    assert "error 0.12, skips 4, retention 0.2" in small


# What is refused


@pytest.mark.parametrize("name", STEP_CACHES)
def test_few_steps_are_refused(name):
    with pytest.raises(RequestError, match="step_cache: a run of 4 steps has none to spare"):
        STEP_CACHES[name]().settle(facts_of("wan2.1-t2v-1.3b", 4))


@pytest.mark.parametrize("name", ["magcache", "teacache"])
def test_two_velocities_a_step_are_refused_where_numbers_assume_one(name):
    with pytest.raises(RequestError, match="its numbers are measured at one velocity a step"):
        STEP_CACHES[name]().settle(facts_of("wan2.1-t2v-1.3b", has_two_velocities=True))


def test_teacache_is_refused_for_two_experts_unless_coefficients_are_given():
    facts = CacheFacts(
        "wan2.2-t2v-a14b", build_schedule("unipc", 40, 12.0), EXPERTS, split_at_boundary(0.875)
    )
    with pytest.raises(RequestError, match="coefficients for two experts.*--step-cache magcache"):
        TeaCache().settle(facts)
    with pytest.raises(RequestError, match="step_cache_threshold: missing"):
        TeaCache(coefficients=(1.0, 0.0)).settle(facts)
    for given in ({"threshold": 0.1}, {"speedup": 2.0}):
        assert TeaCache(coefficients=(1.0, 0.0), **given).settle(facts).new_cache
    with pytest.raises(RequestError, match="teacache_speedup: beside --step-cache-threshold"):
        TeaCache(coefficients=(1.0, 0.0), threshold=0.1, speedup=2.0).settle(facts)


def test_models_without_published_numbers_are_refused():
    for name in ("magcache", "teacache"):
        with pytest.raises(RequestError, match="nobody has published .* --step-cache easycache"):
            STEP_CACHES[name]().settle(facts_of("wan2.1-flf2v-14b"))
    with pytest.raises(RequestError, match="only mode non-ret is published"):
        TeaCache(mode="ret").settle(facts_of("wan2.2-ti2v-5b"))


def test_a_branch_of_left_out_layers_is_never_cached():
    shallow = Branch("shallow", "negative", frozenset({1}))
    for name in ("magcache", "teacache", "first-block"):
        plan = STEP_CACHES[name]().settle(facts_of("wan2.1-t2v-1.3b"))
        assert plan.new_cache("model", shallow, time_path) is None
        one, other = (plan.new_cache("model", branch, time_path) for branch in (POSITIVE, NEGATIVE))
        assert one is not other


# TeaCache


def step_at(index: int, count: int) -> Step:
    return Step(index, count, 1000.0 * (1 - index / count), 1 - index / count, 1 - (index + 1) / count)


def time_path(timestep: float) -> TimeFeatures:
    """The features of a timestep, for caches that look ahead."""
    return features(round(1000 - timestep))


def context_of(step: Step, time: TimeFeatures) -> BlockContext:
    return BlockContext(step, time, video_layout((1, 1, 4)), None, None)


def features(index: int, growth: float = 0.06) -> TimeFeatures:
    """One timestep's features, of which embedding and modulation change at different rates."""
    ramp = 1 + np.arange(6 * 8, dtype=np.float32).reshape(1, 6, 8) / 50
    modulation = ramp * (1 + growth / 3) ** index
    embedding = ramp[:, 0] * (1 + growth) ** index
    return TimeFeatures(mx.array(embedding), mx.array(modulation), (TokenSpan(0, 4, 0),))


def render_teacache(mode, coefficients, threshold, count, growth) -> str:
    """The published rule in float64."""
    first, last = (5, count) if mode == "ret" else (1, count - 1)
    total, before, plan = 0.0, None, ""
    for index in range(count):
        time = features(index, growth)
        now = np.array(time.modulation if mode == "ret" else time.embedding, np.float64)
        if first <= index < last:
            change = np.abs(now - before).mean() / np.abs(before).mean()
            total += sum(c * change**p for p, c in enumerate(reversed(coefficients)))
        if first <= index < last and total < threshold:
            plan += "s"
        else:
            plan, total = plan + "C", 0.0
        before = now
    return plan


def run_decision(decision, count: int, first: int = 0, growth: float = 0.06) -> str:
    tokens = mx.zeros((4, 8))
    letters = ""
    for index in range(first, count):
        context = context_of(step_at(index, count), features(index, growth))
        letters += "s" if decision.skips(tokens, tokens, context, is_forced=False) else "C"
    return letters


@pytest.mark.parametrize(
    ("model", "mode"), [(model, mode) for model, numbers in NUMBERS.items() for mode in numbers.coefficients]
)
def test_teacache_decides_by_the_published_rule(model, mode):
    coefficients = NUMBERS[model].coefficients[mode]
    plans = set()
    for threshold, growth in itertools.product((0.02, 0.1, 0.5, 5.0), (0.06, 0.2)):
        expected = render_teacache(mode, coefficients, threshold, 20, growth)
        assert (
            run_decision(TeaDecision(TeaRule(mode, coefficients), threshold), 20, growth=growth) == expected
        )
        plans.add(expected)
    assert len(plans) > 1


def test_coefficients_and_what_they_are_of_belong_together():
    """Ret coefficients are of the modulation, the others of the embedding."""
    assert NUMBERS["t2v-1.3b"].coefficients["ret"][0] == -5.21862437e04
    assert NUMBERS["t2v-1.3b"].coefficients["non-ret"][0] == 2.39676752e03
    constant = TimeFeatures(mx.ones((1, 8)), features(3).modulation, (TokenSpan(0, 4, 0),))
    for mode, plan in (("ret", "CCCCCCCCC"), ("non-ret", "CsssssssC")):
        decision, letters = TeaDecision(TeaRule(mode, (1.0, 0.0)), 1e-4), ""
        for index in range(9):
            time = replace(constant, modulation=features(index).modulation)
            context = context_of(step_at(index, 9), time)
            letters += "s" if decision.skips(mx.zeros(1), mx.zeros(1), context, is_forced=False) else "C"
        assert letters == plan


def test_a_run_of_teacache_goes_on_with_what_had_added_up():
    coefficients = (1.0, 0.0)
    whole = run_decision(TeaDecision(TeaRule("ret", coefficients), 0.05), 20)
    assert "ssC" in whole
    for pause in range(1, 20):
        early, late = (TeaDecision(TeaRule("ret", coefficients), 0.05) for _ in range(2))
        run_decision(early, pause)
        # The early part is of a run of 20 steps, too.
        early = TeaDecision(TeaRule("ret", coefficients), 0.05)
        for index in range(pause):
            context = context_of(step_at(index, 20), features(index))
            early.skips(mx.zeros(1), mx.zeros(1), context, is_forced=False)
        late.restore({name: mx.array(np.array(array)) for name, array in early.state().items()})
        assert run_decision(late, 20, pause) == whole[pause:]


@pytest.mark.parametrize("mode", ["ret", "non-ret"])
@pytest.mark.parametrize("speedup", [1.0, 1.5, 2.0, 3.0])
def test_the_threshold_of_a_speed_is_the_one_that_comes_nearest(mode, speedup):
    rule, steps = TeaRule(mode, (1.0, 0.0)), [step_at(index, 40) for index in range(40)]
    found = find_threshold(rule, steps, lambda timestep: features(round(40 - timestep / 25)), speedup)

    def distance(threshold: float) -> float:
        return abs(40 / run_decision(TeaDecision(rule, threshold), 40).count("C") - speedup)

    tried = [hundredths / 100 for hundredths in range(1, 61)]
    assert found in tried
    assert distance(found) == min(map(distance, tried))


def test_features_of_several_timesteps_count_by_their_tokens():
    decision = TeaDecision(TeaRule("non-ret", (1.0, 0.0)), 0.26)
    spans = (TokenSpan(0, 1, 0), TokenSpan(1, 4, 1))
    letters = ""
    for value in (1.0, 1.0, 1.5, 1.5):  # the three tokens of the second row change by half: 3/8 of all
        embedding = mx.array([[1.0], [value]])
        time = TimeFeatures(embedding, mx.zeros((2, 6, 1)), spans)
        context = context_of(step_at(len(letters), 9), time)
        letters += "s" if decision.skips(mx.zeros(1), mx.zeros(1), context, is_forced=False) else "C"
    assert letters == "CsCs"


# First block


def test_the_first_block_is_compared_with_the_last_step_that_ran():
    decision, letters = FirstBlockDecision(0.05), ""
    # From one computed step to the next: 4 % and 8 % away from the first, 3.7 % from the third.
    for index, size in enumerate((1.0, 1.04, 1.08, 1.04, 1.12, 1.25)):
        entering = mx.full((4, 8), float(index))
        context = context_of(step_at(index, 9), features(index))
        is_skipped = decision.skips(entering, entering + size, context, is_forced=False)
        letters += "s" if is_skipped else "C"
    assert letters == "CsCssC"


# Residuals


class Always:
    """Skips whenever it may."""

    def skips(self, entering, tokens, context, *, is_forced):
        return not is_forced

    def state(self):
        return {}

    def restore(self, state):
        assert not state


def take(cache: ResidualCache, index: int, added: float) -> str:
    entering = mx.full((4, 8), 10.0 * index)
    context = context_of(step_at(index, 20), features(index))
    cache.enter(entering)
    leaving = cache.reuse(entering, context)
    if leaving is None:
        cache.store(entering + added, context)
        return "C"
    assert mx.array_equal(leaving, entering + 1.0)
    return "s"


def test_what_the_blocks_added_last_is_added_again_and_forgotten_when_old():
    cache = ResidualCache(Always())
    assert "".join(take(cache, index, 1.0) for index in (0, 1, 2, 4, 7, 8)) == "CsssCs"


def test_what_is_kept_takes_two_bytes_and_survives():
    cache, late = ResidualCache(Always()), ResidualCache(Always())
    assert cache.state() == {}
    take(cache, 0, 1.0)
    state = cache.state()
    assert state["residual"].dtype == mx.bfloat16
    late.restore(state)
    assert take(late, 1, 5.0) == "s"
    with pytest.raises(ValueError, match="cannot be one of a cache of residuals"):
        late.restore({"momentum": mx.zeros(1)})


# EasyCache


def render_easycache(network, moves, threshold, first_steps, count) -> tuple[str, list[np.ndarray]]:
    """The published rule in float64, of the prompt's branch; `moves` are the latents of each step."""
    x1 = x2 = out_prev = k = delta = None
    total, plan, outs = 0.0, "", []
    for index, x in enumerate(moves):
        forced = index < first_steps or index == count - 1 or k is None
        if not forced:
            total += k * np.abs(x - x1).mean() / np.abs(out_prev).mean()
        if not forced and total < threshold:
            plan += "s"
            outs.append(x + delta)
        else:
            out, total = network(x, index), 0.0
            if out_prev is not None and x2 is not None:
                k = np.abs(out - out_prev).mean() / np.abs(x1 - x2).mean()
            out_prev, delta = out, out - x
            plan += "C"
            outs.append(out)
        x2, x1 = x1, x
    return plan, outs


def toy_network(x, index):
    return 0.9 * x + 0.3 * math.cos(index / 3)


@pytest.mark.parametrize("threshold", [0.02, 0.05, 0.2])
def test_easycache_decides_by_the_published_rule(threshold):
    count, start = 24, np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    moves = [start * (1 - 0.03 * index) + 0.02 * index**1.3 for index in range(count)]
    plan, outs = render_easycache(toy_network, moves, threshold, 7, count)
    assert "s" in plan[7:]
    caches = [EasyPredictions(threshold, 7)]
    letters = ""
    for index, x in enumerate(moves):
        latents, calls = mx.array(x.astype(np.float32)), []

        def compute(branches, latents=latents, index=index, calls=calls):
            calls.extend(branch.name for branch in branches)
            return [toy_network(latents, index) * (1 if b is POSITIVE else 2) for b in branches]

        found = caches[-1].predict(latents, step_at(index, count), (POSITIVE, NEGATIVE), compute)
        letters += "C" if calls else "s"
        assert calls in ([], ["positive", "negative"])
        np.testing.assert_allclose(np.array(found[0]), outs[index], rtol=0, atol=1e-5)
        # Every step goes on from what was kept, bit for bit.
        state = {name: mx.array(np.array(array)) for name, array in caches[-1].state().items()}
        caches.append(EasyPredictions(threshold, 7))
        caches[-1].restore(state)
    assert letters == plan


def test_easycache_computes_a_branch_that_was_away_and_one_of_left_out_layers():
    cache, shallow = EasyPredictions(1e9, 3), Branch("shallow", "negative", frozenset({1}))
    steps = [
        (POSITIVE, NEGATIVE, shallow), (POSITIVE, NEGATIVE), (POSITIVE,), (POSITIVE, NEGATIVE),
        (POSITIVE, NEGATIVE, shallow), (POSITIVE,), (POSITIVE,), (POSITIVE, NEGATIVE), (),
    ]  # fmt: skip
    computed = []
    for index, branches in enumerate(steps):
        calls = []

        def compute(branches, index=index, calls=calls):
            calls.extend(branch.name for branch in branches)
            return [mx.full((1, 2), float(index**2 + 1)) for _ in branches]

        velocities = cache.predict(mx.full((1, 2), float(index)), step_at(index, 20), branches, compute)
        assert len(velocities) == len(branches)
        computed.append(calls)
    both = ["positive", "negative"]
    assert computed == [
        [*both, "shallow"], both, ["positive"], [], ["shallow"], [], [], ["negative"], [],
    ]  # fmt: skip


def test_thresholds_are_the_published_ones():
    assert (
        EasyCache().settle(facts_of("wan2.2-ti2v-5b")).setting == "easycache, threshold 0.05, first steps 7"
    )
    facts = CacheFacts("wan2.2-t2v-a14b", build_schedule("unipc", 40, 12.0), EXPERTS)
    assert "threshold 0.06" in EasyCache().settle(facts).setting
    assert "threshold 0.08, non-ret" in TeaCache().settle(facts_of("wan2.1-t2v-1.3b")).setting
    assert "threshold 0.26, non-ret" in TeaCache().settle(facts_of("wan2.2-ti2v-5b", has_image=True)).setting
    assert FirstBlockCache().settle(facts_of("")).setting == "first-block, threshold 0.05"
