"""Bernini-R: text-to-video, editing and pictures of what is to appear, with the tensors of Wan's T2V."""

from __future__ import annotations

import re

from mlx_video.conditioning.sources import SOURCES, TASK_PROMPTS, choose_size
from mlx_video.config import SamplingDefaults
from mlx_video.sampling.recipes.bernini import BERNINI, SOURCE_PICTURES, SOURCE_VIDEO
from mlx_video.variants.t2v import LATENTS, T2V_1_3B
from mlx_video.variants.variant import Inputs, Traits, Variant

# Bernini without "R" has a planner, too, which this version does not run.
NAMES = re.compile(r"bernini[-_ .]?r(enderer)?(?![a-z])", re.IGNORECASE)
INPUTS = Inputs(optional=(SOURCE_VIDEO, SOURCE_PICTURES), sized_by=SOURCE_VIDEO)
UNITS = (TASK_PROMPTS, SOURCES)

# Source: bytedance/Bernini bernini/cli.py, add_common_args; configs/bernini_renderer_wan22/config.json.
BERNINI_A14B = Variant(
    name="bernini-r-a14b",
    title="Bernini-R A14B",
    model_version="2.2",
    model_type="t2v",
    traits=Traits(LATENTS, is_dual=True),
    names=NAMES,
    inputs=INPUTS,
    units=UNITS,
    choose_size=choose_size,
    sampling=SamplingDefaults(
        recipe=BERNINI.name,
        steps=40,
        shift=5.0,
        guide_scale=(3.2, 4.0),
        boundary=0.875,
        width=848,
        height=480,
    ),
)

BERNINI_1_3B = Variant(
    name="bernini-r-1.3b",
    title="Bernini-R 1.3B",
    model_version="2.1",
    model_type="t2v",
    traits=T2V_1_3B.traits,
    names=NAMES,
    inputs=INPUTS,
    units=UNITS,
    choose_size=choose_size,
    sampling=SamplingDefaults(
        recipe=BERNINI.name, steps=40, shift=5.0, guide_scale=(4.0, 4.0), width=848, height=480
    ),
)
