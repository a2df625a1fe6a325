"""LongCat-Video: Euler over its own noise levels, with CFG-Zero*; and its adapter for few steps."""

from __future__ import annotations

import re

from mlx_video.sampling.guidance_forms.zero_star import ZeroStar
from mlx_video.sampling.noise_levels.comfy import Levels
from mlx_video.sampling.noise_levels.longcat import (
    longcat,
    longcat_continued,
    longcat_distilled,
    longcat_refined,
)
from mlx_video.sampling.recipe import ModelSampling, Preset


def _levels(model: ModelSampling, steps: int, shift: float) -> Levels:
    return (longcat_continued if model.goes_on else longcat)(steps, shift)


# Source: meituan-longcat/LongCat-Video longcat_video/pipeline_longcat_video.py.
LONGCAT = Preset("longcat", levels=_levels, guidance_forms=(ZeroStar(0),))

LONGCAT_DISTILLED = Preset(
    "longcat-distilled",
    re.compile(r"cfg_step_lora|longcat.*distill", re.IGNORECASE),
    steps=16,
    guide_scale=1.0,
    levels=lambda model, steps, shift: longcat_distilled(steps, shift),
)

LONGCAT_REFINE = Preset(
    "longcat-refine",
    guide_scale=1.0,
    fps=30,
    levels=lambda model, steps, shift: longcat_refined(steps, shift),
)
