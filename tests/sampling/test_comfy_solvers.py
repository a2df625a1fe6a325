"""Solvers by ComfyUI's names: results of a toy denoiser, equality with their formulas, and going on."""

from __future__ import annotations

import math
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.sampling.schedule import Schedule, build_schedule
from mlx_video.sampling.solvers.ancestral import EulerAncestralSolver
from mlx_video.sampling.solvers.dpmpp import DPMpp2MSDESolver, with_midpoints
from mlx_video.sampling.solvers.heun import with_repeated_ends
from mlx_video.sampling.solvers.solver import split_ancestral
from mlx_video.sampling.solvers.table import SOLVERS, adapt_schedule, build_solver

SHIFT = 5.0
LISTED = [1.0, 0.961716, 0.909215, 0.833333, 0.714897, 0.5006, 0.0]
COMFY = [name for name in SOLVERS if name not in ("unipc", "dpm++", "euler")]
NOISE = 0.25


def shifted(level: float) -> float:
    return SHIFT * level / (1 + (SHIFT - 1) * level)


def toy_schedule() -> Schedule:
    """ComfyUI's six simple levels under shift 5."""
    sigmas = [*(shifted((1000 - int(j * 1000 / 6)) / 1000) for j in range(6)), 0.0]
    assert sigmas == pytest.approx(LISTED, abs=5e-7)
    return Schedule(np.array(sigmas, np.float32), 1000 * np.array(sigmas[:-1]))


def toy_velocity(latents, sigma: float):
    """Velocity that leads to the clean latents 0.4 - 0.5·sigma + 0.1·x."""
    return (latents - (0.4 - 0.5 * sigma + 0.1 * latents)) / sigma


def run_toy(solver, schedule: Schedule, latents: mx.array, first: int = 0, last: int | None = None):
    for index in range(first, schedule.steps if last is None else last):
        velocity = toy_velocity(latents, schedule.sigmas[index].item())
        latents = solver.step(index, velocity, latents)
    return latents


@pytest.mark.parametrize(
    ("name", "expected", "evaluations"),
    [
        ("euler", 0.23115011, 6),
        ("heun", 0.23321859, 11),
        ("dpmpp_2m", 0.23301205, 6),
        ("res_multistep", 0.23310929, 6),
        ("res_multistep_ancestral", 0.22051412, 6),
        ("lcm", 0.16523797, 6),
        ("euler_ancestral", 0.18116833, 6),
        ("dpmpp_2m_sde", 0.17412276, 6),
        ("dpmpp_2m_sde_heun", 0.17462459, 6),
        ("dpmpp_sde", 0.17473689, 11),
    ],
)
def test_the_toy_denoiser_ends_where_comfyui_ends(name, expected, evaluations):
    schedule = adapt_schedule(name, toy_schedule(), SHIFT)
    assert schedule.steps == evaluations
    solver = build_solver(name, schedule, lambda: mx.array(NOISE))
    # float32 levels and arithmetic: a few roundings of 6e-8 each; the last jumps add up (1 - s)/s of them.
    assert run_toy(solver, schedule, mx.array(1.5)).item() == pytest.approx(expected, abs=5e-7)


def test_the_stochastic_solver_without_noise_ends_where_comfyui_ends():
    schedule = adapt_schedule("dpmpp_2m_sde", toy_schedule(), SHIFT)
    solver = DPMpp2MSDESolver(schedule.sigmas.tolist(), pytest.fail, eta=0.0)
    assert run_toy(solver, schedule, mx.array(1.5)).item() == pytest.approx(0.23218920, abs=5e-7)


# The formulas once more, in float64 and as they are published


def render(name: str, sigmas: list[float], x: float) -> float:
    """The toy run by the published formulas; `sigmas` are those of the steps."""

    def clean(x, s):
        return 0.4 - 0.5 * s + 0.1 * x

    def lam(s):
        return math.log((1 - s) / s)

    old = None
    for k in range(len(sigmas) - 1):
        s, s1 = sigmas[k], sigmas[k + 1]
        d = clean(x, s)
        if s1 == 0:
            x = d
        elif name == "lcm":
            x = (1 - s1) * d + s1 * NOISE
        elif name == "heun":
            slope = (x - d) / s
            end = x + (s1 - s) * slope
            x = x + (s1 - s) * (slope + (end - clean(end, s1)) / s1) / 2
        elif name == "dpmpp_2m":
            h = math.log(s) - math.log(s1)
            r = math.nan if old is None else (math.log(sigmas[k - 1]) - math.log(s)) / h
            d1 = d if old is None else (1 + 1 / (2 * r)) * d - old / (2 * r)
            x = s1 / s * x + (1 - math.exp(-h)) * d1
        elif name == "euler_ancestral":
            down = s1 * (1 + (s1 / s - 1))
            x = down / s * x + (1 - down / s) * d
            up = math.sqrt(s1**2 - down**2 * (1 - s1) ** 2 / (1 - down) ** 2)
            x = (1 - s1) / (1 - down) * x + NOISE * up
        elif name == "dpmpp_2m_sde":
            h = lam(s1) - lam(s)
            x, gain = s1 / s * math.exp(-h) * x, 1 - math.exp(-2 * h)
            x += (1 - s1) * gain * d
            if old is not None:
                x += (1 - s1) * gain / 2 * h / (lam(s) - lam(sigmas[k - 1])) * (d - old)
            x += NOISE * s1 * math.sqrt(1 - math.exp(-2 * h))
        old = d
    return x


@pytest.mark.parametrize("name", ["lcm", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde"])
@pytest.mark.parametrize(("steps", "shift"), [(2, 3.0), (7, 8.0), (30, 5.0)])
def test_a_solver_follows_its_published_formula(name, steps, shift):
    base = build_schedule("euler", steps, shift)
    schedule = adapt_schedule(name, base, shift)
    sigmas = schedule.sigmas.tolist() if name == "dpmpp_2m_sde" else base.sigmas.tolist()
    solver = build_solver(name, schedule, lambda: mx.array(NOISE))
    found = run_toy(solver, schedule, mx.array(1.5)).item()
    assert found == pytest.approx(render(name, sigmas, 1.5), abs=3e-6)


# Noise and state


def draws(shape=(2, 3)):
    """Fresh noise, counted."""
    count = 0

    def draw():
        nonlocal count
        count += 1
        return mx.random.normal(shape, key=mx.random.key(count))

    return draw


@pytest.mark.parametrize("name", COMFY)
def test_a_restored_solver_goes_on_bit_for_bit_after_any_velocity(name):
    schedule = adapt_schedule(name, toy_schedule(), SHIFT)
    start = mx.random.normal((2, 3), key=mx.random.key(100))
    noise = draws()
    straight = run_toy(build_solver(name, schedule, noise), schedule, start)
    for pause in range(schedule.steps):
        noise = draws()
        early = build_solver(name, schedule, noise)
        latents = run_toy(early, schedule, start, 0, pause)
        saved = {key: np.array(value) for key, value in early.state().items()}
        late = build_solver(name, schedule, noise)
        late.restore({key: mx.array(value) for key, value in saved.items()})
        assert mx.array_equal(run_toy(late, schedule, latents, pause), straight)
        assert late.state() == {}


@pytest.mark.parametrize("name", COMFY)
def test_a_state_of_another_solver_is_refused(name):
    solver = build_solver(name, adapt_schedule(name, toy_schedule(), SHIFT))
    with pytest.raises(ValueError, match=r"\['momentum'\] cannot be one of"):
        solver.restore({"momentum": mx.array(1.0)})


@pytest.mark.parametrize("name", COMFY)
def test_a_velocity_that_points_at_one_place_leads_there(name):
    schedule = adapt_schedule(name, toy_schedule(), SHIFT)
    clean, latents = mx.random.normal((2, 2, 3), key=mx.random.key(7))
    solver = build_solver(name, schedule, draws())
    for index, sigma in enumerate(schedule.sigmas[:-1].tolist()):
        latents = solver.step(index, (latents - clean) / sigma, latents)
    np.testing.assert_allclose(np.array(latents), np.array(clean), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["lcm", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde"])
def test_fresh_noise_keeps_the_level_of_noise(name):
    """Latents of clean zeros hold noise alone, whose spread is the noise level."""
    schedule = adapt_schedule(name, toy_schedule(), SHIFT)
    shape = (200, 200)
    latents = schedule.sigmas[0].item() * mx.random.normal(shape, key=mx.random.key(0))
    solver = build_solver(name, schedule, draws(shape))
    for index, (sigma, next_sigma) in enumerate(pairwise(schedule.sigmas)):
        latents = solver.step(index, latents / sigma.item(), latents)
        assert mx.std(latents).item() == pytest.approx(next_sigma, rel=0.02, abs=1e-6)


def test_noise_with_no_share_of_it_is_euler():
    schedule = toy_schedule()
    plain = run_toy(build_solver("euler", schedule), schedule, mx.array(1.5))
    found = run_toy(
        EulerAncestralSolver(schedule.sigmas.tolist(), lambda: mx.array(9.0), 0.0), schedule, mx.array(1.5)
    )
    assert found.item() == pytest.approx(plain.item(), abs=1e-6)


# Schedules


def test_a_solver_of_two_velocities_lists_both_levels():
    assert with_repeated_ends([1.0, 0.5, 0.25, 0.0]) == [1.0, 0.5, 0.5, 0.25, 0.25, 0.0]
    assert with_repeated_ends([1.0, 0.0]) == [1.0, 0.0]
    levels = with_midpoints([0.9, 0.5, 0.0])
    # Signal to noise 1/9 and 1: a third lies between them.
    assert levels == pytest.approx([0.9, 0.75, 0.5, 0.0])


def test_levels_that_a_solver_adds_get_their_own_timesteps():
    base = Schedule(np.array([0.9, 0.5, 0.0], np.float32), np.array([899, 499]))
    assert adapt_schedule("heun", base, 5.0).timesteps.tolist() == [899, 499, 499]
    assert adapt_schedule("dpmpp_sde", base, 5.0).timesteps.tolist() == pytest.approx([899, 750, 499])
    assert adapt_schedule("euler", base, 5.0) is base


def test_a_first_level_without_signal_is_lowered_where_a_solver_divides_by_it():
    found = adapt_schedule("dpmpp_2m_sde", build_schedule("euler", 4, 5.0), 5.0)
    assert found.sigmas[0] == pytest.approx(0.99998, abs=1e-7)
    assert found.timesteps[0] == pytest.approx(999.98, abs=1e-4)
    assert found.sigmas[1:].tolist() == build_schedule("euler", 4, 5.0).sigmas[1:].tolist()


def test_noise_is_split_so_that_variances_add_up():
    down, up = split_ancestral(1.0, 0.6, 1.0)
    assert (down, up) == (pytest.approx(0.36), pytest.approx(0.48))
    assert split_ancestral(1.0, 0.6, 0.0) == (0.6, 0.0)
