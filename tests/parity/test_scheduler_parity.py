"""Schedules and solvers against the official schedulers (wan22) and diffusers' Euler."""

import importlib
import sys
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.solvers.table import build_solver
from tests.parity.official import wan_module

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS = [1, 2, 4, 10, 40, 50]
SHIFTS = [1.0, 3.0, 5.0, 12.0]
SOLVERS = ["unipc", "dpm++", "euler"]
SHAPE = (4, 3, 4, 5)


def build_unipc(steps, shift):
    wan_module("model")  # registers the package without its CUDA-only parts
    module = importlib.import_module("wan.utils.fm_solvers_unipc")
    scheduler = module.FlowUniPCMultistepScheduler(
        num_train_timesteps=1000, shift=1, use_dynamic_shifting=False
    )
    scheduler.set_timesteps(steps, device="cpu", shift=shift)
    return scheduler


def build_dpm(steps, shift):
    wan_module("model")
    module = importlib.import_module("wan.utils.fm_solvers")
    scheduler = module.FlowDPMSolverMultistepScheduler(
        num_train_timesteps=1000, shift=1, use_dynamic_shifting=False
    )
    sigmas = module.get_sampling_sigmas(steps, shift)
    module.retrieve_timesteps(scheduler, device="cpu", sigmas=sigmas)
    return scheduler


def build_euler(steps, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1].tolist())
    return scheduler


REFERENCES = {"unipc": build_unipc, "dpm++": build_dpm, "euler": build_euler}


def numbers(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count + 1, *SHAPE))


class WideTorch:
    """torch, with float64 where the schedulers ask for float32."""

    def __getattr__(self, name):
        return getattr(torch, "float64" if name == "float32" else name)


def run_reference(name, steps, shift):
    """The latents after each step; the velocity depends on the latents and differs from step to step."""
    scheduler = REFERENCES[name](steps, shift)
    noise, *parts = torch.from_numpy(numbers(steps)).to(torch.float32)
    return walk(scheduler, noise, parts)


def run_wide_reference(name, steps, shift):
    """The same from the same float32 sigmas, with every other number in float64."""
    scheduler = REFERENCES[name](steps, shift)
    scheduler.sigmas = scheduler.sigmas.to(torch.float64)
    noise, *parts = torch.from_numpy(numbers(steps))
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(sys.modules[type(scheduler).__module__], "torch", WideTorch()):
            return walk(scheduler, noise, parts)
    finally:
        torch.set_default_dtype(torch.float32)


def walk(scheduler, noise, parts):
    latents, after = noise.unsqueeze(0), []
    for part, timestep in zip(parts, scheduler.timesteps, strict=True):
        velocity = 0.7 * latents + 0.3 * part
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        after.append(latents[0].numpy().copy())
    return after


def run_ours(name, steps, shift, dtype):
    solver = build_solver(name, build_schedule(name, steps, shift))
    latents, *parts = (mx.array(part, dtype=dtype) for part in numbers(steps))
    after = []
    for index, part in enumerate(parts):
        latents = solver.step(index, 0.7 * latents + 0.3 * part, latents)
        after.append(np.array(latents))
    return after


def worst(error, ours, reference):
    """The largest error over all steps."""
    assert len(ours) == len(reference)
    return max(
        error(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(ours, reference, strict=True)
    )


def largest(ours, reference):
    return np.abs(ours - reference).max() / np.abs(reference).max()


def norm(ours, reference):
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_schedule_is_the_official_one_to_the_bit(name, steps, shift):
    schedule, reference = build_schedule(name, steps, shift), REFERENCES[name](steps, shift)
    np.testing.assert_array_equal(schedule.sigmas, reference.sigmas.numpy())
    np.testing.assert_array_equal(schedule.timesteps, reference.timesteps.numpy())


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
def test_euler_schedule_is_that_of_diffusers(steps, shift):
    schedule, reference = build_schedule("euler", steps, shift), build_euler(steps, shift)
    # diffusers shifts in float32, a few roundings of 6e-8 each; we do it in float64.
    np.testing.assert_allclose(schedule.sigmas, reference.sigmas.numpy(), rtol=2.5e-7, atol=0)
    np.testing.assert_allclose(schedule.timesteps, reference.timesteps.numpy(), rtol=2.5e-7, atol=0)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SOLVERS)
def test_solver_follows_the_reference(name, steps, shift):
    """Both in float32: after 50 steps the reference's own rounding is already 8e-7 at its worst value."""
    ours = run_ours(name, steps, shift, mx.float32)
    assert worst(norm, ours, run_reference(name, steps, shift)) <= 1e-6


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_value_is_right_when_the_reference_does_not_round(name, steps, shift):
    ours = run_ours(name, steps, shift, mx.float32)
    assert worst(largest, ours, run_wide_reference(name, steps, shift)) <= 1e-6


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_the_formulas_are_the_official_ones(name, steps, shift):
    """Both in float64: what remains is no rounding of float32 but would be an error of the formulas."""
    with mx.stream(mx.cpu):  # float64 exists on the CPU only
        ours = run_ours(name, steps, shift, mx.float64)
    assert worst(largest, ours, run_wide_reference(name, steps, shift)) <= 1e-11
