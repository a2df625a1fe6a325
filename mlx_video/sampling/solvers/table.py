"""The solvers by name, and what each asks of a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_video.sampling.schedule import NUM_TRAIN_TIMESTEPS, Schedule, shift_sigmas
from mlx_video.sampling.solvers.ancestral import EulerAncestralSolver, RenoiseSolver
from mlx_video.sampling.solvers.dpmpp import (
    DPMpp2MSDESolver,
    DPMpp2MSolver,
    DPMppSDESolver,
    with_midpoints,
)
from mlx_video.sampling.solvers.heun import HeunSolver, with_repeated_ends
from mlx_video.sampling.solvers.official import DPMSolver2M, EulerSolver, UniPCSolver
from mlx_video.sampling.solvers.res_multistep import ResMultistepSolver
from mlx_video.sampling.solvers.solver import FreshNoise, Solver

SolverBuilder = Callable[[Sequence[float], FreshNoise], Solver]
"""Sigmas, and the noise that a stochastic solver asks for → a fresh solver."""

# How far below pure noise a schedule begins, before the shift, where a solver divides by the signal.
_LEAST_SIGNAL = 1e-4


@dataclass(frozen=True, slots=True)
class SolverKind:
    """One solver.

    Attributes:
        build: a fresh one for a run.
        expand: noise levels of the steps → those at which it asks for a velocity; None where these are the
            same. A step of two velocities is two entries.
        needs_signal: whether the first level must lie below pure noise.
    """

    build: SolverBuilder
    expand: Callable[[Sequence[float]], list[float]] | None = None
    needs_signal: bool = False


SOLVERS: dict[str, SolverKind] = {
    "unipc": SolverKind(lambda sigmas, _: UniPCSolver(sigmas)),
    "dpm++": SolverKind(lambda sigmas, _: DPMSolver2M(sigmas)),
    "euler": SolverKind(lambda sigmas, _: EulerSolver(sigmas)),
    "lcm": SolverKind(RenoiseSolver),
    "euler_ancestral": SolverKind(EulerAncestralSolver),
    "dpmpp_2m": SolverKind(DPMpp2MSolver),
    "dpmpp_2m_sde": SolverKind(DPMpp2MSDESolver, needs_signal=True),
    "dpmpp_2m_sde_heun": SolverKind(partial(DPMpp2MSDESolver, correction="heun"), needs_signal=True),
    "dpmpp_sde": SolverKind(DPMppSDESolver, with_midpoints, needs_signal=True),
    "res_multistep": SolverKind(ResMultistepSolver),
    "res_multistep_ancestral": SolverKind(partial(ResMultistepSolver, eta=1.0)),
    "heun": SolverKind(HeunSolver, with_repeated_ends),
}


def _no_noise() -> mx.array:
    raise ValueError("this solver adds noise: give a source of it")


def build_solver(name: str, schedule: Schedule, fresh_noise: FreshNoise = _no_noise) -> Solver:
    """Build a fresh solver for one run over `schedule`.

    Args:
        name: of the solver.
        schedule: noise levels, of :func:`adapt_schedule`.
        fresh_noise: asked by a stochastic solver in each step that adds noise; by others never.

    Raises:
        ValueError: there is no solver of that name.
    """
    return find_solver(name).build(schedule.sigmas.tolist(), fresh_noise)


def find_solver(name: str) -> SolverKind:
    """The solver of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SOLVERS:
        raise ValueError(f"no solver {name!r}; choose from {', '.join(SOLVERS)}")
    return SOLVERS[name]


def adapt_schedule(name: str, schedule: Schedule, shift: float) -> Schedule:
    """A schedule as a solver needs it: a level for each velocity, and none without signal where it divides.

    Args:
        name: of the solver.
        schedule: noise levels of the steps.
        shift: of the noise levels.

    Returns:
        The schedule itself where it is fit; levels that are added have the timestep 1000 · level.
    """
    kind = find_solver(name)
    sigmas = [float(sigma) for sigma in schedule.sigmas]
    timesteps = dict(zip(sigmas, map(float, schedule.timesteps), strict=False))
    if kind.needs_signal and sigmas[0] >= 1:
        sigmas[0] = float(np.float32(shift_sigmas(np.array([1 - _LEAST_SIGNAL]), shift)[0]))
    if kind.expand:
        sigmas = kind.expand(sigmas)
    if sigmas == schedule.sigmas.tolist():
        return schedule
    expanded = [timesteps.get(sigma, sigma * NUM_TRAIN_TIMESTEPS) for sigma in sigmas[:-1]]
    return Schedule(np.array(sigmas, np.float32), np.array(expanded, np.float64))
