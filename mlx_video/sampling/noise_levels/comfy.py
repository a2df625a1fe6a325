"""Spacings by ComfyUI's names, for flow matching.

All work on a table of 1000 shifted levels, `shift(k / 1000)` for k from 1 to 1000. Each function takes the
number of steps and the shift, and gives the levels [steps], float64, falling, without the 0 that ends them;
`ddim_uniform` and `beta` may give some more or fewer.

Source: ComfyUI comfy/samplers.py, SCHEDULER_HANDLERS; comfy/k_diffusion/sampling.py.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mlx_video.sampling.schedule import NUM_TRAIN_TIMESTEPS, shift_sigmas

Levels = npt.NDArray[np.float64]

_BETA = 0.6  # both parameters of the distribution
_RHO = 7.0
_LINEAR_END = 0.025
_NEARLY_ZERO = 1e-5


def simple(steps: int, shift: float) -> Levels:
    """Entries of the table at whole steps from its end."""
    return _table(shift)[[-1 - int(step * NUM_TRAIN_TIMESTEPS / steps) for step in range(steps)]]


def sgm_uniform(steps: int, shift: float) -> Levels:
    """Even steps over the timesteps of the table, the last one left out; shifted once more."""
    first, last = _timestep_range(shift)
    return _level(np.linspace(first, last, steps + 1)[:-1], shift)


def normal(steps: int, shift: float) -> Levels:
    """Even steps over the timesteps of the table, both ends taken; shifted once more."""
    first, last = _timestep_range(shift)
    if _level(np.array(last), shift) < _NEARLY_ZERO:
        return _level(np.linspace(first, last, steps + 1)[:-1], shift)
    return _level(np.linspace(first, last, steps), shift)


def ddim_uniform(steps: int, shift: float) -> Levels:
    """Every n-th entry of the table from its second one; does not begin at pure noise."""
    return _table(shift)[1 :: max(NUM_TRAIN_TIMESTEPS // steps, 1)][::-1]


def beta(steps: int, shift: float) -> Levels:
    """Entries of the table at quantiles of a beta distribution: dense at both ends. arXiv:2407.12173."""
    quantiles = [beta_quantile(1 - step / steps) for step in range(steps)]
    indices = np.rint((NUM_TRAIN_TIMESTEPS - 1) * np.array(quantiles)).astype(int)
    is_new = np.append(True, np.diff(indices) != 0)
    return _table(shift)[indices[is_new]]


def karras(steps: int, shift: float) -> Levels:
    """Even steps in the seventh root; most of them at little noise. arXiv:2206.00364."""
    lowest, highest = _table(shift)[[0, -1]]
    return np.linspace(highest ** (1 / _RHO), lowest ** (1 / _RHO), steps) ** _RHO


def exponential(steps: int, shift: float) -> Levels:
    """Even steps in the logarithm; most of them at little noise."""
    lowest, highest = _table(shift)[[0, -1]]
    return np.exp(np.linspace(math.log(highest), math.log(lowest), steps))


def kl_optimal(steps: int, shift: float) -> Levels:
    """Even steps in the arc tangent. arXiv:2404.14507."""
    lowest, highest = _table(shift)[[0, -1]]
    return np.tan(np.linspace(math.atan(highest), math.atan(lowest), steps))


def linear_quadratic(steps: int, shift: float) -> Levels:
    """Small even steps over the first half, then ever larger ones; without the shift.

    Source: genmoai/mochi src/mochi_preview/pipelines.py, linear_quadratic_schedule.
    """
    if steps == 1:
        return np.ones(1)
    half, rest = steps // 2, steps - steps // 2
    left = half - _LINEAR_END * steps
    curve = left / (half * rest**2)
    slope = _LINEAR_END / half - 2 * left / rest**2
    linear = np.arange(half) * _LINEAR_END / half
    index = np.arange(half, steps)
    return 1 - np.append(linear, curve * index**2 + slope * index + curve * half**2)


def beta_quantile(share: float) -> float:
    """The value below which a share of the beta distribution lies, found by halving."""
    if share > 0.5:
        return 1 - beta_quantile(1 - share)
    wanted = 2 * share * _beta_sum(0.5)
    low, high = 0.0, 0.5
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if _beta_sum(middle) > wanted else (middle, high)
    return high  # exactly the middle for one half, which decides how 499.5 is rounded


def _beta_sum(value: float) -> float:
    """The incomplete beta function up to one half, as a power series."""
    factor, total = 1.0, 0.0
    for n in range(80):  # falls by half each time at least: beyond float64
        total += factor / (_BETA + n)
        factor *= (n + 1 - _BETA) / (n + 1) * value
    return total * value**_BETA


def _table(shift: float) -> Levels:
    return shift_sigmas(np.arange(1, NUM_TRAIN_TIMESTEPS + 1) / NUM_TRAIN_TIMESTEPS, shift)


def _timestep_range(shift: float) -> tuple[float, float]:
    """Timesteps of the table's ends, of which the lower one is shifted already."""
    lowest, highest = _table(shift)[[0, -1]]
    return float(highest) * NUM_TRAIN_TIMESTEPS, float(lowest) * NUM_TRAIN_TIMESTEPS


def _level(timestep: Levels, shift: float) -> Levels:
    return shift_sigmas(timestep / NUM_TRAIN_TIMESTEPS, shift)
