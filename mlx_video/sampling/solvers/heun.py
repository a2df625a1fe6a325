"""Heun's method: the slopes at both ends of a step, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_video.sampling.solvers.solver import FreshNoise, RememberingSolver, levels_of


def with_repeated_ends(sigmas: Sequence[float]) -> list[float]:
    """Noise levels of :class:`HeunSolver`: each end of a step but the last is looked at, then left from."""
    first, *others = sigmas
    return [first, *(level for sigma in others[:-1] for level in (sigma, sigma)), *others[-1:]]


class HeunSolver(RememberingSolver):
    """An Euler step, and once its end is known, the step again with the mean of both slopes.

    Args:
        sigmas: of :func:`with_repeated_ends`.

    Source: ComfyUI comfy/k_diffusion/sampling.py, sample_heun.
    """

    kept_names = (("start", "slope"),)

    def __init__(self, sigmas: Sequence[float], _: FreshNoise) -> None:
        super().__init__()
        self._sigmas = tuple(sigmas)

    def step(self, index: int, velocity: mx.array, latents: mx.array) -> mx.array:
        """See :meth:`Solver.step`."""
        sigma, next_sigma = levels_of(self._sigmas, index)
        if index % 2 == 0:
            if next_sigma > 0:
                self.kept = {"start": latents, "slope": velocity}
            return latents + (next_sigma - sigma) * velocity
        start, slope = self.kept.pop("start"), self.kept.pop("slope")
        return start + (0.5 * (sigma - self._sigmas[index - 1])) * (slope + velocity)
