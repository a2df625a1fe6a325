"""The exponential integrator of second order that ComfyUI calls res_multistep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from mlx_video.sampling.solvers.solver import FreshNoise, FreshNoiseSolver, levels_of, split_ancestral


class ResMultistepSolver(FreshNoiseSolver):
    """Second order from one remembered prediction, with fresh noise or without.

    Args:
        eta: share of fresh noise; 0 for none.

    Source: ComfyUI comfy/k_diffusion/sampling.py, res_multistep; arXiv:2308.02157.
    """

    kept_names = (("clean",),)

    def __init__(self, sigmas: Sequence[float], fresh_noise: FreshNoise, eta: float = 0.0) -> None:
        super().__init__(sigmas, fresh_noise, eta)

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        clean = latents - sigma * velocity
        previous = self.kept.pop("clean", None)
        if next_sigma == 0:
            return clean
        self.kept["clean"] = clean
        down, up = split_ancestral(sigma, next_sigma, self._eta)
        if previous is None or down == 0:
            result = latents + (down - sigma) * velocity
        else:
            result = self._second_order(index, down, latents, clean, previous)
        return result + up * self._fresh_noise() if up else result

    def _second_order(
        self, index: int, down: float, latents: mx.array, clean: mx.array, previous: mx.array
    ) -> mx.array:
        last, sigma = levels_of(self._sigmas, index - 1)
        last_down, _ = split_ancestral(last, sigma, self._eta)
        h = math.log(sigma / down)
        ratio = math.log(last_down / last) / h  # below 0: the remembered prediction lies behind
        phi_1 = -math.expm1(-h) / h
        phi_2 = (1 - phi_1) / h
        older = phi_2 / ratio
        return math.exp(-h) * latents + h * ((phi_1 - older) * clean + older * previous)
