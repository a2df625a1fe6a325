"""Noise levels of LongCat-Video, without the 0 that ends them.

Source: meituan-longcat/LongCat-Video longcat_video/pipeline_longcat_video.py, get_timesteps_sigmas,
generate_vc and generate_refine.
"""

from __future__ import annotations

import numpy as np

from mlx_video.sampling.noise_levels.comfy import Levels
from mlx_video.sampling.schedule import NUM_TRAIN_TIMESTEPS, shift_sigmas

_LEAST = 0.001
_DISTILLED_STEPS = 50
_TAIL_START = 0.5
_TAIL_STEPS = 10


def longcat(steps: int, shift: float) -> Levels:
    """Even levels down to 0.001, then shifted."""
    return shift_sigmas(np.linspace(1.0, _LEAST, steps), shift)


def longcat_continued(steps: int, shift: float) -> Levels:
    """The same above 0.5, and ten even steps below: more of them for fine detail, `steps` tells the rest."""
    levels = longcat(steps, shift)
    tail = np.linspace(_TAIL_START, 0.0, _TAIL_STEPS, endpoint=False)
    return np.concatenate([levels[levels > _TAIL_START], tail])


def longcat_distilled(steps: int, shift: float) -> Levels:
    """Some of the fifty even levels that the distilled adapter was trained at, then shifted."""
    falling = np.arange(_DISTILLED_STEPS, 0, -1) * (NUM_TRAIN_TIMESTEPS // _DISTILLED_STEPS)
    picked = np.floor(np.linspace(0, _DISTILLED_STEPS, steps, endpoint=False)).astype(int)
    return shift_sigmas(falling[picked] / NUM_TRAIN_TIMESTEPS, shift)


def longcat_refined(steps: int, shift: float) -> Levels:
    """The middle, and the usual levels below it: `steps` tells how many there are from 1 on."""
    levels = longcat(steps, shift)
    return np.concatenate([[_TAIL_START], levels[levels < _TAIL_START]])
