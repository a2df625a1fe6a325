"""LightX2V's distilled models, and those like them: few even steps by Euler, without guidance."""

from __future__ import annotations

import re

from mlx_video.sampling.recipe import Preset

# Source: ModelTC/LightX2V configs/distill/wan21/wan_i2v_distill_model_4step_cfg.json and wan_flf2v_*.json.
LIGHTX2V = Preset(
    "lightx2v",
    re.compile(r"lightx2v|step_?distill|(?<!\d)4-?steps?(?![a-z])", re.IGNORECASE),
    steps=4,
    guide_scale=1.0,
    shifts={"t2v": 5.0, "i2v": 5.0, "flf2v": 16.0},
    splits_in_half=True,
)

# Source: ModelTC/Wan2.2-Lightning README.md; LightX2V configs/wan22, boundary_step_index.
LIGHTNING = Preset(
    "lightning",
    re.compile(r"lightning|(?<![a-z])seko(?![a-z])", re.IGNORECASE),
    steps=4,
    guide_scale=1.0,
    shifts={"t2v": 5.0, "i2v": 5.0},
    splits_in_half=True,
)

# Source: LightX2V configs of mean flow models, denoising_step_list.
MEANFLOW = Preset(
    "meanflow",
    re.compile(r"mean-?_?flow", re.IGNORECASE),
    steps=2,
    guide_scale=1.0,
    shifts={"t2v": 5.0, "i2v": 5.0},
    splits_in_half=True,
)
