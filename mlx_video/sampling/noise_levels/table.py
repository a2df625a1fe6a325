"""The spacings of noise levels by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mlx_video.sampling.noise_levels import comfy
from mlx_video.sampling.schedule import Schedule, build_schedule, check_settings, schedule_of

NOISE_LEVELS: Mapping[str, Callable[[int, float], comfy.Levels]] = MappingProxyType(
    {
        "simple": comfy.simple,
        "sgm_uniform": comfy.sgm_uniform,
        "normal": comfy.normal,
        "ddim_uniform": comfy.ddim_uniform,
        "beta": comfy.beta,
        "karras": comfy.karras,
        "exponential": comfy.exponential,
        "linear_quadratic": comfy.linear_quadratic,
        "kl_optimal": comfy.kl_optimal,
    }
)
"""Name → steps and shift to levels, float64, falling, without the 0 that ends them."""

OFFICIAL = "official"
SPACINGS = (OFFICIAL, *NOISE_LEVELS)
"""Every name that :func:`space_levels` knows."""


def space_levels(name: str, solver: str, steps: int, shift: float, strength: float = 1.0) -> Schedule:
    """The schedule of a spacing.

    Args:
        name: "official" for that of the official code, which depends on the solver; or ComfyUI's.
        solver: name of the solver.
        steps: of the run; "ddim_uniform" and "beta" may give some more or fewer.
        shift: of the noise levels.
        strength: below 1, how much of a video that is begun with is made anew. ComfyUI's spacings then are
            the last levels of a longer run, as its "denoise" has it.

    Raises:
        RequestError: an argument is out of range.
        ValueError: unknown name.
    """
    if name == OFFICIAL:
        return build_schedule(solver, steps, shift, strength)
    if name not in NOISE_LEVELS:
        raise ValueError(f"no noise levels {name!r}; choose from {', '.join(SPACINGS)}")
    check_settings(steps, shift, strength)
    if strength == 1:
        return schedule_of(NOISE_LEVELS[name](steps, shift), shift=shift)
    return schedule_of(NOISE_LEVELS[name](int(steps / strength), shift)[-steps:], shift=shift)
