"""The sampling loop, a generator: one event for each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import cast

import mlx.core as mx

from mlx_video.errors import NonFiniteError
from mlx_video.events import StepFinished
from mlx_video.models.dispatch import device_facts
from mlx_video.sampling.guidance import Velocity
from mlx_video.sampling.schedule import Schedule
from mlx_video.sampling.solvers.solver import Solver

Constrain = Callable[[mx.array], mx.array]
"""Latents [C, T, H, W] → the same with what is known of them put back."""


def denoise(
    noise: mx.array,
    schedule: Schedule,
    solver: Solver,
    velocity: Velocity,
    *,
    start: int = 0,
    constrain: Constrain | None = None,
    estimates_clean: Callable[[int], bool] = lambda index: False,
) -> Generator[StepFinished, None, mx.array]:
    """Walk latents down the noise levels, one step for each event taken.

    The loop keeps the newest latents and the solver's state, nothing else; a caller that closes the generator
    or leaves it on an exception loses only the step it was in.

    Args:
        noise: [C, T, H, W]; the latents at noise level `schedule.sigmas[start]`.
        schedule: noise levels and timesteps.
        solver: built for `schedule`; restored beforehand if the run goes on from an earlier one.
        velocity: what the transformer predicts, guidance included.
        start: first step to take.
        constrain: puts back what is known of the latents, such as a given first frame; applied to the noise
            and after every step, of which the solver's own history sees nothing, as in the official code.
        estimates_clean: whether the event of a step tells what it takes for the clean latents; this changes
            no number of the run.

    Yields:
        One event for each step, its latents float32 and evaluated.

    Returns:
        The latents after the last step, [C, T, H, W], float32.

    Raises:
        NonFiniteError: a step produced infinity or NaN.
    """
    constrain = constrain or _leave
    latents = constrain(noise.astype(mx.float32))
    del noise
    for index in range(start, schedule.steps):
        started = time.perf_counter()
        step = schedule.step(index)
        # float32: a solver's coefficients times a velocity in half precision would lose its digits.
        prediction = velocity(latents, step).astype(mx.float32)
        clean = constrain(latents - step.sigma * prediction) if estimates_clean(index) else None
        latents = constrain(solver.step(index, prediction, latents))
        del prediction
        broken = mx.sum(mx.logical_not(mx.isfinite(latents)))
        mx.eval(latents, clean, broken)  # the solver's state with them: the latents are made from it
        if count := cast(int, broken.item()):
            raise NonFiniteError(_describe_failure(schedule, index, count, latents.size))
        seconds, peak = time.perf_counter() - started, mx.get_peak_memory()
        yield StepFinished(index, schedule.steps, step.timestep, seconds, latents, peak, clean)
        del clean
    return latents


def _leave(latents: mx.array) -> mx.array:
    """Constrain nothing."""
    return latents


def _describe_failure(schedule: Schedule, index: int, broken: int, size: int) -> str:
    version = mx.__version__  # type: ignore[attr-defined]  # missing from the stubs
    chip = device_facts().get("device_name", "an unknown chip")
    return (
        f"step {index + 1} of {schedule.steps} (timestep {schedule.timesteps[index]:g}): "
        f"{broken:,} of {size:,} latent values are infinite or not a number, so the video would be black. "
        "Weights in float16 overflow easily: convert with --dtype bfloat16, or float32 to be sure, and begin "
        "anew; a very high --guide-scale can overflow too. If neither is the case, the fault may be in mlx "
        f"{version} on {chip}: update mlx or add --no-compile, and go on with --resume."
    )
