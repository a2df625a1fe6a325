"""Solvers that put fresh noise in place of old: LCM's renoising, and ancestral Euler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from mlx_video.sampling.solvers.solver import FreshNoise, MemorylessSolver, levels_of


class RenoiseSolver(MemorylessSolver):
    """A jump to the clean latents, then fresh noise up to the next level; as distilled models want it.

    Source: ComfyUI comfy/k_diffusion/sampling.py, sample_lcm; FastVideo
    fastvideo/pipelines/stages/denoising.py, DmdDenoisingStage.
    """

    def __init__(self, sigmas: Sequence[float], fresh_noise: FreshNoise) -> None:
        self._sigmas = tuple(sigmas)
        self._fresh_noise = fresh_noise

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        clean = latents - sigma * velocity
        if next_sigma == 0:
            return clean
        return (1 - next_sigma) * clean + next_sigma * self._fresh_noise()


class EulerAncestralSolver(MemorylessSolver):
    """An Euler step below the next level, then fresh noise up to it, in the form for flow matching.

    Args:
        eta: share of fresh noise; 0 for Euler.

    Source: ComfyUI comfy/k_diffusion/sampling.py, sample_euler_ancestral_RF.
    """

    def __init__(self, sigmas: Sequence[float], fresh_noise: FreshNoise, eta: float = 1.0) -> None:
        self._sigmas = tuple(sigmas)
        self._fresh_noise = fresh_noise
        self._eta = eta

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        clean = latents - sigma * velocity
        if next_sigma == 0:
            return clean
        down = next_sigma * (1 + (next_sigma / sigma - 1) * self._eta)
        latents = (down / sigma) * latents + (1 - down / sigma) * clean
        signal = (1 - next_sigma) / (1 - down)
        spread = math.sqrt(max(0.0, next_sigma**2 - (down * signal) ** 2))
        return signal * latents + spread * self._fresh_noise()
