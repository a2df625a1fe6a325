"""Noise levels from a list: the user's, or that of a distilled model's training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_video.errors import RequestError
from mlx_video.sampling.schedule import NUM_TRAIN_TIMESTEPS, Schedule, schedule_of, shift_sigmas


def schedule_of_sigmas(sigmas: Sequence[float]) -> Schedule:
    """The schedule of a user's noise levels.

    Args:
        sigmas: above 0 and at most 1, falling; a 0 at the end may be left out.

    Raises:
        RequestError: they are none, or not such.
    """
    return schedule_of(_checked("sigmas", sigmas, 1.0))


def schedule_of_timesteps(timesteps: Sequence[float]) -> Schedule:
    """The schedule of a user's timesteps: each is 1000 times its noise level, no shift.

    Args:
        timesteps: above 0 and at most 1000, falling; a 0 at the end may be left out.

    Raises:
        RequestError: they are none, or not such.
    """
    values = _checked("timesteps", timesteps, float(NUM_TRAIN_TIMESTEPS))
    return schedule_of(values / NUM_TRAIN_TIMESTEPS, values)


def warped(timesteps: Sequence[float], shift: float) -> Schedule:
    """The schedule of trained timesteps that the shift moves."""
    return schedule_of(shift_sigmas(np.array(timesteps) / NUM_TRAIN_TIMESTEPS, shift), shift=shift)


def looked_up(timesteps: Sequence[float], shift: float) -> Schedule:
    """The schedule of trained timesteps that stay, with the nearest noise levels of a shifted table."""
    table = shift_sigmas(1 - np.arange(NUM_TRAIN_TIMESTEPS) / NUM_TRAIN_TIMESTEPS, shift)
    wanted = np.array(timesteps, np.float64)
    nearest = np.abs(table * NUM_TRAIN_TIMESTEPS - wanted[:, None]).argmin(axis=1)
    return schedule_of(table[nearest], wanted)


def last_part(schedule: Schedule, strength: float) -> Schedule:
    """The last steps of a list, for a video that is begun with.

    Args:
        schedule: of the whole list.
        strength: share of its steps that are made, rounded down, one at least; as Diffusers counts them.
    """
    count = max(1, int(schedule.steps * strength))
    return schedule_of(schedule.sigmas[-count - 1 : -1].astype(np.float64), schedule.timesteps[-count:])


def _checked(option: str, values: Sequence[float], highest: float) -> np.ndarray:
    array = np.array(values, np.float64)
    if array.size and array[-1] == 0:
        array = array[:-1]
    is_usable = array.ndim == 1 and array.size and np.all((array > 0) & (array <= highest))
    if not is_usable or np.any(np.diff(array.astype(np.float32)) >= 0):
        shown = ",".join(f"{value:g}" for value in values) or "nothing"
        raise RequestError(
            option,
            f"{shown}: must be numbers that fall from at most {highest:g} to above 0, one for each step.",
        )
    return array
