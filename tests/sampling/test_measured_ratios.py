"""Ratios that are measured on a model, and what magcache makes of them."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError
from mlx_video.sampling.experts import split_at_step
from mlx_video.sampling.guidance import NEGATIVE, POSITIVE, ClassifierFreeGuidance
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.step_caches.magcache import MagCache
from mlx_video.sampling.step_caches.measured import (
    BranchRatios,
    Measurement,
    Probes,
    RatioProbe,
    average,
    nearest,
)
from mlx_video.sampling.step_caches.step_cache import CacheFacts
from mlx_video.sampling.step_caches.tables import MAGNITUDES

CONTEXT = SimpleNamespace()


def facts(
    steps: int = 50, *, pixels: int = 399360, variant: str = "", dual: bool = False, **given
) -> CacheFacts:
    guidance = ClassifierFreeGuidance(5.0)
    names = ("high_noise", "low_noise") if dual else ("model",)
    split = split_at_step(steps // 2) if dual else None
    schedule = build_schedule("euler", steps, 5.0)
    return CacheFacts(variant, schedule, dict.fromkeys(names, guidance), split, pixels=pixels, **given)


def ratios(values: tuple[float, ...]) -> BranchRatios:
    return BranchRatios(values, (0.0,) * len(values), (0.0,) * len(values))


def measurement(values: tuple[float, ...], *names: str, **given) -> Measurement:
    branches = {
        name: {"positive": ratios(values), "negative": ratios(values)} for name in names or ("model",)
    }
    traits = {"pixels": 399360, "has_image": False, "steps": len(values), "shift": 5.0, "prompts": 2}
    return Measurement(**{**traits, **given}, branches=branches)


def feed(probe: RatioProbe, residuals: np.ndarray) -> None:
    entering = mx.ones(residuals.shape[1:])
    for residual in residuals:
        probe.enter(entering)
        assert probe.reuse(entering, CONTEXT) is None
        probe.store(entering + mx.array(residual), CONTEXT)


def test_a_probe_measures_the_formula():
    residuals = np.random.default_rng(0).normal(size=(4, 6, 8))
    probe = RatioProbe()
    feed(probe, residuals.astype(np.float32))
    assert probe.rows[0] == (1.0, 0.0, 0.0)
    for row, before, now in zip(probe.rows[1:], residuals, residuals[1:], strict=False):
        lengths = [np.linalg.norm(one, axis=-1) for one in (before, now)]
        quotients = lengths[1] / lengths[0]
        cosines = (before * now).sum(-1) / lengths[0] / lengths[1]
        expected = quotients.mean(), quotients.std(), 1 - cosines.mean()
        assert np.allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_ratios_are_means_over_prompts():
    runs = [Probes(), Probes()]
    for scale, run in zip((0.5, 0.75), runs, strict=True):
        for branch in (POSITIVE, NEGATIVE):
            probe = run.plan(facts()).new_cache("model", branch, None)
            feed(probe, np.stack([np.ones((2, 3)), scale * np.ones((2, 3))]).astype(np.float32))
    found = average(runs)
    assert [*found] == ["model"]
    assert np.allclose(found["model"]["positive"].ratios, (1.0, 0.625))
    assert np.allclose(found["model"]["negative"].deviations, 0)


def test_measured_ratios_make_the_plan_of_equal_published_ones():
    table = MAGNITUDES["t2v-1.3b"]
    own = measurement(table.positive)
    published = MagCache(keeps_last=False).settle(facts(variant="wan2.1-t2v-1.3b"))
    measured = MagCache(keeps_last=False, measured=(own,)).settle(facts(variant="wan2.1-t2v-1.3b"))
    assert measured.setting == published.setting
    assert measured.notices[0].startswith("Step cache magcache: ratios measured on this model (399360 pixels")
    assert measured.notices[1:] == published.notices


def test_a_model_without_published_ratios_needs_measured_ones():
    with pytest.raises(RequestError, match="Measure them with python -m mlx_video.calibrate"):
        MagCache().settle(facts())
    setting = MagCache(measured=(measurement((1.0,) * 50),)).settle(facts()).setting
    assert setting.startswith("magcache, error 0.06, skips 3, retention 0.2, plan CCCCCCCCCCsssCsss")


def test_the_nearest_measurement_counts():
    small, large = measurement((1.0,) * 30, pixels=4096), measurement((1.0,) * 30)
    shorter, with_image = measurement((1.0,) * 20), measurement((1.0,) * 50, has_image=True)
    measured = (small, large, shorter, with_image)
    assert nearest(measured, facts(50)) is large
    assert nearest(measured, facts(21)) is shorter
    assert nearest(measured, facts(50, has_image=True)) is with_image
    assert nearest(measured, facts(50, pixels=5000)) is small
    assert nearest(measured, facts(50, dual=True)) is None


def test_each_expert_has_its_own_ratios():
    # Those of the high-noise expert never allow a skip, those of the other always do.
    one = measurement((1.0, *(0.5,) * 9), "high_noise", "low_noise", steps=20)
    branches = {**one.branches, "low_noise": dict.fromkeys(("positive", "negative"), ratios((1.0,) * 10))}
    mixed = Measurement(one.pixels, False, 20, 5.0, 1, branches)
    plan = MagCache(measured=(mixed,), retention=0.1, skips=2).settle(facts(20, dual=True))
    assert "CCCCCCCCCCCssCssCssC" in plan.notices[1]
