"""Solvers of the official code: Euler, DPM-Solver++(2M) and UniPC."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import mlx.core as mx

from mlx_video.sampling.solvers.solver import (
    MemorylessSolver,
    Sigmas,
    check_names,
    half_log_snr,
    levels_of,
)


class EulerSolver(MemorylessSolver):
    """First order: a straight line to the next level.

    Source: diffusers schedulers/scheduling_flow_match_euler_discrete.py, FlowMatchEulerDiscreteScheduler.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = tuple(sigmas)

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        return latents + (next_sigma - sigma) * velocity


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
        sigma, next_sigma = levels_of(self._sigmas, index)
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
        check_names("dpm++", state, [], ["clean"])
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
        sigma, next_sigma = levels_of(self._sigmas, index)
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
        check_names("unipc", state, [], ["start", "clean"], ["start", "clean", "clean_before"])
        self._clean = tuple(state[name] for name in ("clean_before", "clean") if name in state)
        self._start = state.get("start")

    def _correct(self, index: int, clean: mx.array, start: mx.array) -> mx.array:
        """Repeat the last step with what its end has shown; the order is that of the step repeated."""
        sigmas, previous = self._sigmas, self._clean[-1]
        h = half_log_snr(sigmas[index]) - half_log_snr(sigmas[index - 1])
        if len(self._clean) == 1:
            slope = 0.5 * (clean - previous)
        else:
            ratio = (half_log_snr(sigmas[index - 2]) - half_log_snr(sigmas[index - 1])) / h
            older, newer = _corrector_weights(h, ratio)
            slope = (older / ratio) * (self._clean[0] - previous) + newer * (clean - previous)
        return _blend(sigmas[index - 1], sigmas[index], start, previous + slope)


def _extrapolate(
    sigmas: Sigmas, index: int, latents: mx.array, clean: mx.array, previous: mx.array | None
) -> mx.array:
    """Step to the next level; the clean latents go on changing as they did since the previous step."""
    if previous is not None:
        here = half_log_snr(sigmas[index])
        ratio = (half_log_snr(sigmas[index - 1]) - here) / (half_log_snr(sigmas[index + 1]) - here)
        clean = clean + (0.5 / ratio) * (previous - clean)
    return _blend(sigmas[index], sigmas[index + 1], latents, clean)


def _blend(sigma: float, next_sigma: float, latents: mx.array, clean: mx.array) -> mx.array:
    """Exact step from level to level if the clean latents are constant over it."""
    h = half_log_snr(next_sigma) - half_log_snr(sigma)
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
