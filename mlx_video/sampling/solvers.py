"""One step along the probability flow: velocity → next latents, by Euler, DPM-Solver++(2M) or UniPC.

Latents at noise level s are (1 - s)·clean + s·noise and the velocity is noise - clean. Coefficients are
Python floats (float64), worked out from the float32 sigmas; every operation on arrays is elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import mlx.core as mx

from mlx_video.request import SchedulerName
from mlx_video.sampling.schedule import Schedule

Sigmas = tuple[float, ...]


class Solver(Protocol):
    """Takes the steps of one run in order, and remembers what later steps need."""

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """Advance by one step, unevaluated.

        Args:
            index: of the step, counted from 0; never looked up by timestep, as timesteps can repeat.
            velocity: prediction for `latents`, float32, of the same shape.
            latents: [C, T, H, W] or any other shape, float32, at noise level `sigmas[index]`.

        Returns:
            The latents at noise level `sigmas[index + 1]`.

        Raises:
            ValueError: the schedule has no such step.
        """

    def state(self) -> dict[str, mx.array]:
        """Arrays that the next step needs besides the latents, by name; empty before the first step."""

    def restore(self, state: Mapping[str, mx.array]) -> None:
        """Go on from what `state()` returned, bit for bit.

        Raises:
            ValueError: the state is of another solver.
        """


class EulerSolver:
    """First order: a straight line to the next level.

    Source: diffusers schedulers/scheduling_flow_match_euler_discrete.py, FlowMatchEulerDiscreteScheduler.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = tuple(sigmas)

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = _levels(self._sigmas, index)
        return latents + (next_sigma - sigma) * velocity

    def state(self) -> dict[str, mx.array]:
        """Always empty: no step depends on an earlier one."""
        return {}

    def restore(self, state: Mapping[str, mx.array]) -> None:
        """See :meth:`Solver.restore`."""
        _check_names("euler", state, [])


class DPMSolver2M:
    """Second order from one remembered prediction; first order on the first and the last step.

    Source: Wan2.1 wan/utils/fm_solvers.py, FlowDPMSolverMultistepScheduler (dpmsolver++, midpoint);
    arXiv:2211.01095.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = tuple(sigmas)
        self._previous: mx.array | None = None

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = _levels(self._sigmas, index)
        clean = latents - sigma * velocity
        previous, self._previous = self._previous, clean
        if next_sigma == 0:
            self._previous = None
            return clean
        return _extrapolate(self._sigmas, index, latents, clean, previous)

    def state(self) -> dict[str, mx.array]:
        """See :meth:`Solver.state`."""
        return {} if self._previous is None else {"clean": self._previous}

    def restore(self, state: Mapping[str, mx.array]) -> None:
        """See :meth:`Solver.restore`."""
        _check_names("dpm++", state, [], ["clean"])
        self._previous = state.get("clean")


class UniPCSolver:
    """The second-order step above, with each step's start corrected once its velocity is known.

    Source: Wan2.1 wan/utils/fm_solvers_unipc.py, FlowUniPCMultistepScheduler (order 2, bh2, predict_x0);
    arXiv:2302.04867.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = tuple(sigmas)
        self._clean: tuple[mx.array, ...] = ()  # of the last two steps at most, oldest first
        self._start: mx.array | None = None  # corrected latents that the last step left from

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = _levels(self._sigmas, index)
        clean = latents - sigma * velocity
        if next_sigma == 0:  # only the clean estimate is left, which no correction changes
            self._clean, self._start = (), None
            return clean
        if self._start is not None:
            latents = self._correct(index, clean, self._start)
        previous = self._clean[-1] if self._clean else None
        self._clean, self._start = (*self._clean[-1:], clean), latents
        return _extrapolate(self._sigmas, index, latents, clean, previous)

    def state(self) -> dict[str, mx.array]:
        """See :meth:`Solver.state`."""
        if self._start is None:
            return {}
        history = zip(("clean", "clean_before"), reversed(self._clean), strict=False)
        return {"start": self._start, **dict(history)}

    def restore(self, state: Mapping[str, mx.array]) -> None:
        """See :meth:`Solver.restore`."""
        _check_names("unipc", state, [], ["start", "clean"], ["start", "clean", "clean_before"])
        self._clean = tuple(state[name] for name in ("clean_before", "clean") if name in state)
        self._start = state.get("start")

    def _correct(self, index: int, clean: mx.array, start: mx.array) -> mx.array:
        """Repeat the last step with what its end has shown; the order is that of the step repeated."""
        sigmas, previous = self._sigmas, self._clean[-1]
        h = _lambda(sigmas[index]) - _lambda(sigmas[index - 1])
        if len(self._clean) == 1:
            slope = 0.5 * (clean - previous)
        else:
            ratio = (_lambda(sigmas[index - 2]) - _lambda(sigmas[index - 1])) / h
            older, newer = _corrector_weights(h, ratio)
            slope = (older / ratio) * (self._clean[0] - previous) + newer * (clean - previous)
        return _blend(sigmas[index - 1], sigmas[index], start, previous + slope)


FreshNoise = Callable[[], mx.array]
"""Gives standard normal noise of the latents' shape, new with each call; part of a run's state."""


def _no_noise() -> mx.array:
    raise ValueError("this solver adds noise: give a source of it")


SolverBuilder = Callable[[Sequence[float], FreshNoise], Solver]
"""Sigmas, and the noise that a stochastic solver asks for → a fresh solver."""

SOLVERS: dict[SchedulerName, SolverBuilder] = {
    "unipc": lambda sigmas, _: UniPCSolver(sigmas),
    "dpm++": lambda sigmas, _: DPMSolver2M(sigmas),
    "euler": lambda sigmas, _: EulerSolver(sigmas),
}


def build_solver(name: SchedulerName, schedule: Schedule, fresh_noise: FreshNoise = _no_noise) -> Solver:
    """Build a fresh solver for one run over `schedule`.

    Args:
        name: of the solver.
        schedule: noise levels.
        fresh_noise: asked by a stochastic solver in each step that adds noise; by others never.

    Raises:
        ValueError: there is no solver of that name.
    """
    if name not in SOLVERS:
        raise ValueError(f"no solver {name!r}; choose from {', '.join(SOLVERS)}")
    return SOLVERS[name](schedule.sigmas.tolist(), fresh_noise)


def _extrapolate(
    sigmas: Sigmas, index: int, latents: mx.array, clean: mx.array, previous: mx.array | None
) -> mx.array:
    """Step to the next level; the clean latents go on changing as they did since the previous step."""
    if previous is not None:
        here = _lambda(sigmas[index])
        ratio = (_lambda(sigmas[index - 1]) - here) / (_lambda(sigmas[index + 1]) - here)
        clean = clean + (0.5 / ratio) * (previous - clean)
    return _blend(sigmas[index], sigmas[index + 1], latents, clean)


def _blend(sigma: float, next_sigma: float, latents: mx.array, clean: mx.array) -> mx.array:
    """Exact step from level to level if the clean latents are constant over it."""
    h = _lambda(next_sigma) - _lambda(sigma)
    return (next_sigma / sigma) * latents - ((1 - next_sigma) * math.expm1(-h)) * clean


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """Weights of the older and the newer difference in a second-order correction (UniC-2, B(h) = e^h - 1).

    They solve [[1, 1], [ratio, 1]]·(older, newer) = (b1, b2).
    """
    growth = math.expm1(-h)
    phi_1 = growth / -h - 1
    phi_2 = phi_1 / -h - 0.5
    b1, b2 = phi_1 / growth, 2 * phi_2 / growth
    older = (b1 - b2) / (1 - ratio)
    return older, b1 - older


def _lambda(sigma: float) -> float:
    """Half the log of the signal-to-noise ratio; minus infinity at pure noise."""
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def _levels(sigmas: Sigmas, index: int) -> tuple[float, float]:
    if not 0 <= index < len(sigmas) - 1:
        raise ValueError(f"step {index} is outside a schedule of {len(sigmas) - 1} steps")
    return sigmas[index], sigmas[index + 1]


def _check_names(solver: str, state: Mapping[str, mx.array], *allowed: list[str]) -> None:
    if sorted(state) not in [sorted(names) for names in allowed]:
        raise ValueError(f"a state with {sorted(state)} cannot be one of the {solver} solver")
