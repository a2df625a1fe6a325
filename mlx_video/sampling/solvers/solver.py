"""One step along the probability flow: what every solver is, and the arithmetic that they share.

Latents at noise level s are (1 - s)·clean + s·noise and the velocity is noise - clean. Coefficients are
Python floats (float64), worked out from the float32 sigmas; every operation on arrays is elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import mlx.core as mx

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


FreshNoise = Callable[[], mx.array]
"""Gives standard normal noise of the latents' shape, new with each call; part of a run's state."""


def half_log_snr(sigma: float) -> float:
    """Half the log of the signal-to-noise ratio; minus infinity at pure noise."""
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def split_ancestral(sigma: float, next_sigma: float, eta: float) -> tuple[float, float]:
    """Level to step down to, and the spread of the noise that then leads back up to `next_sigma`.

    Args:
        sigma, next_sigma: levels of noise whose variances add up.
        eta: share of fresh noise; 0 for none.

    Source: crowsonkb/k-diffusion k_diffusion/sampling.py, get_ancestral_step.
    """
    up = min(next_sigma, eta * math.sqrt(next_sigma**2 * (sigma**2 - next_sigma**2) / sigma**2))
    return math.sqrt(next_sigma**2 - up**2), up


class MemorylessSolver:
    """Base of solvers in which no step depends on an earlier one, but for the noise that is drawn."""

    def state(self) -> dict[str, mx.array]:
        """Always empty."""
        return {}

    def restore(self, state: Mapping[str, mx.array]) -> None:
        """See :meth:`Solver.restore`."""
        check_names(type(self).__name__, state, [])


class RememberingSolver:
    """Base of solvers that keep arrays of the latents' shape from one velocity to the next.

    Attributes:
        kept: the arrays by name; the names in use are those of one of `kept_names`, or none.
    """

    kept_names: tuple[tuple[str, ...], ...] = ()

    def __init__(self) -> None:
        self.kept: dict[str, mx.array] = {}

    def state(self) -> dict[str, mx.array]:
        """See :meth:`Solver.state`."""
        return dict(self.kept)

    def restore(self, state: Mapping[str, mx.array]) -> None:
        """See :meth:`Solver.restore`."""
        check_names(type(self).__name__, state, [], *map(list, self.kept_names))
        self.kept = dict(state)


class FreshNoiseSolver(RememberingSolver):
    """Base of remembering solvers that add fresh noise.

    Args:
        sigmas: noise levels of the steps, and the 0 that ends them.
        fresh_noise: draws it.
        eta: its share; 0 for none.
    """

    def __init__(self, sigmas: Sequence[float], fresh_noise: FreshNoise, eta: float) -> None:
        super().__init__()
        self._sigmas = tuple(sigmas)
        self._fresh_noise = fresh_noise
        self._eta = eta


def levels_of(sigmas: Sigmas, index: int) -> tuple[float, float]:
    """Noise levels before and after a step.

    Raises:
        ValueError: the schedule has no such step.
    """
    if not 0 <= index < len(sigmas) - 1:
        raise ValueError(f"step {index} is outside a schedule of {len(sigmas) - 1} steps")
    return sigmas[index], sigmas[index + 1]


def check_names(solver: str, state: Mapping[str, mx.array], *allowed: list[str]) -> None:
    """Refuse a state whose names are none of those allowed.

    Raises:
        ValueError: it is of another solver.
    """
    if sorted(state) not in [sorted(names) for names in allowed]:
        raise ValueError(f"a state with {sorted(state)} cannot be one of {solver}")
