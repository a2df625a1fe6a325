"""DPM-Solver++ as ComfyUI has it: in sigma time, and with fresh noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import mlx.core as mx

from mlx_video.sampling.solvers.solver import (
    FreshNoise,
    FreshNoiseSolver,
    RememberingSolver,
    half_log_snr,
    levels_of,
    split_ancestral,
)


class DPMpp2MSolver(RememberingSolver):
    """Second order in minus the log of sigma; the official code's solver works in the log of signal to noise.

    Source: ComfyUI comfy/k_diffusion/sampling.py, sample_dpmpp_2m.
    """

    kept_names = (("clean",),)

    def __init__(self, sigmas: Sequence[float], _: FreshNoise) -> None:
        super().__init__()
        self._sigmas = tuple(sigmas)

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        clean = latents - sigma * velocity
        previous = self.kept.pop("clean", None)
        if next_sigma == 0:
            return clean
        self.kept["clean"] = clean
        if previous is not None:
            ratio = math.log(self._sigmas[index - 1] / sigma) / math.log(sigma / next_sigma)
            clean = clean + (0.5 / ratio) * (clean - previous)
        return (next_sigma / sigma) * latents + (1 - next_sigma / sigma) * clean


class DPMpp2MSDESolver(FreshNoiseSolver):
    """Second order with fresh noise.

    Args:
        sigmas: all below 1.
        correction: form of the second-order term.
        eta: share of fresh noise; 0 for none.

    Source: ComfyUI comfy/k_diffusion/sampling.py, sample_dpmpp_2m_sde.
    """

    kept_names = (("clean",),)

    def __init__(
        self,
        sigmas: Sequence[float],
        fresh_noise: FreshNoise,
        correction: Literal["midpoint", "heun"] = "midpoint",
        eta: float = 1.0,
    ) -> None:
        super().__init__(sigmas, fresh_noise, eta)
        self._correction = correction

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        clean = latents - sigma * velocity
        previous = self.kept.pop("clean", None)
        if next_sigma == 0:
            return clean
        self.kept["clean"] = clean
        h = half_log_snr(next_sigma) - half_log_snr(sigma)
        gain = -math.expm1(-(1 + self._eta) * h)
        result = (next_sigma / sigma) * math.exp(-self._eta * h) * latents + (1 - next_sigma) * gain * clean
        if previous is not None:
            ratio = (half_log_snr(sigma) - half_log_snr(self._sigmas[index - 1])) / h
            weight = 0.5 * gain if self._correction == "midpoint" else 1 - gain / ((1 + self._eta) * h)
            result = result + ((1 - next_sigma) * weight / ratio) * (clean - previous)
        if self._eta == 0:
            return result
        spread = next_sigma * math.sqrt(-math.expm1(-2 * self._eta * h))
        return result + spread * self._fresh_noise()


def with_midpoints(sigmas: Sequence[float]) -> list[float]:
    """Noise levels of :class:`DPMppSDESolver`: one more halfway between two, in log signal to noise."""
    levels = []
    for sigma, next_sigma in pairwise(sigmas):
        levels.append(sigma)
        if next_sigma > 0:
            middle = (half_log_snr(sigma) + half_log_snr(next_sigma)) / 2
            levels.append(1 / (1 + math.exp(middle)))
    return [*levels, 0.0]


class DPMppSDESolver(FreshNoiseSolver):
    """Two velocities a step: the second, halfway, decides the step; fresh noise with both.

    Args:
        sigmas: of :func:`with_midpoints`, all below 1.
        eta: share of fresh noise; 0 for none.

    Source: ComfyUI comfy/k_diffusion/sampling.py, sample_dpmpp_sde (r = 1/2).
    """

    kept_names = (("start",),)

    def __init__(self, sigmas: Sequence[float], fresh_noise: FreshNoise, eta: float = 1.0) -> None:
        super().__init__(sigmas, fresh_noise, eta)

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        clean = latents - sigma * velocity
        if next_sigma == 0:
            return clean
        if index % 2:  # from the step's start, with what was seen halfway
            return self._advance(self._sigmas[index - 1], next_sigma, self.kept.pop("start"), clean)
        self.kept["start"] = latents
        return self._advance(sigma, next_sigma, latents, clean)

    def _advance(self, sigma: float, next_sigma: float, latents: mx.array, clean: mx.array) -> mx.array:
        noise, next_noise = sigma / (1 - sigma), next_sigma / (1 - next_sigma)
        down, up = split_ancestral(noise, next_noise, self._eta)
        signal = 1 - next_sigma
        kept = down / noise
        result = (signal / (1 - sigma)) * kept * latents + signal * (1 - kept) * clean
        return result + (signal * up) * self._fresh_noise() if up else result
