"""Fun models: videos that follow a control video or a reference image, and that fill in what is missing."""

from __future__ import annotations

import re
from dataclasses import replace

from mlx_video.conditioning.continuation.last_frame import LAST_FRAME
from mlx_video.conditioning.control.units import FUN_CHANNELS, REFERENCE, image_tokens_unit
from mlx_video.conditioning.units import PROMPTS
from mlx_video.config import SamplingDefaults
from mlx_video.geometry import size_for_area
from mlx_video.models.control.fun import FunTransformer
from mlx_video.variants.demo_prompts import remark_on_guided_prompt
from mlx_video.variants.i2v import AREA_480P, CHANNELS, DEMO_I2V, IMAGE_BRANCH
from mlx_video.variants.variant import Inputs, Traits, Variant
from mlx_video.weights.names.fun_names import FUN_RULES, fun_tensors
from mlx_video.weights.network import TransformerNetwork

# Source: the names of alibaba-pai's repositories and of their files for ComfyUI.
INP_NAMES = re.compile(r"(?<![a-z])fun[-_. ].{0,16}inp(aint(ing)?)?(?![a-z])", re.IGNORECASE)
# 16 of the noise, 16 of the control video and 16 of the first frame go in.
CONTROL_CHANNELS = (48, 16)
# In place of the last 16, a mask of 4 and 16 of the given frames.
MASKED_CONTROL_CHANNELS = (52, 16)
REFERENCE_BRANCH = "ref_conv."

NETWORK = TransformerNetwork(build=FunTransformer, extra_tensors=fun_tensors, extra_rules=FUN_RULES)

# Source: aigc-apps/VideoX-Fun examples/wan2.1_fun/predict_v2v_control.py; config/wan2.1/wan_civitai.yaml.
SAMPLING = SamplingDefaults(guide_scale=(6.0, 6.0), max_area=AREA_480P)

INP = Variant(
    name="wan2.1-fun-inp",
    title="Wan2.1 Fun-InP",
    model_version="2.1",
    model_type="i2v",
    traits=Traits(CHANNELS, (IMAGE_BRANCH,)),
    sampling=SAMPLING,
    inputs=Inputs(optional=("image", "end_image", "inpaint_video", "inpaint_video_mask")),
    units=(PROMPTS, image_tokens_unit("image", is_fitted=True), FUN_CHANNELS),
    continuation=LAST_FRAME,
    choose_size=size_for_area,
    names=INP_NAMES,
)

# Wan2.1 I2V has no such size.
INP_1_3B = replace(
    INP,
    name="wan2.1-fun-1.3b-inp",
    title="Wan2.1 Fun-1.3B-InP",
    traits=Traits(CHANNELS, (IMAGE_BRANCH,), size=(1536, 30)),
    names=None,
)

# Source: aigc-apps/VideoX-Fun config/wan2.2/wan_civitai_i2v.yaml.
INP_A14B = replace(
    INP,
    name="wan2.2-fun-a14b-inp",
    title="Wan2.2 Fun-A14B-InP",
    model_version="2.2",
    traits=Traits(CHANNELS, is_dual=True),
    sampling=replace(SAMPLING, boundary=0.9),
    units=(PROMPTS, FUN_CHANNELS),
)

CONTROL = Variant(
    name="wan2.1-fun-control",
    title="Wan2.1 Fun Control",
    model_version="2.1",
    model_type="i2v",
    traits=Traits(CONTROL_CHANNELS, (IMAGE_BRANCH,)),
    network=NETWORK,
    sampling=SAMPLING,
    inputs=Inputs(optional=("image", "control_video")),
    units=(PROMPTS, image_tokens_unit("image", is_fitted=False), FUN_CHANNELS),
    continuation=LAST_FRAME,
    choose_size=size_for_area,
)

CONTROL_V1_1 = replace(
    CONTROL,
    name="wan2.1-fun-v1.1-control",
    title="Wan2.1 Fun-V1.1 Control",
    traits=Traits(CONTROL_CHANNELS, (IMAGE_BRANCH, REFERENCE_BRANCH)),
    inputs=Inputs(optional=("image", "control_video", "reference_image")),
    units=(PROMPTS, image_tokens_unit("reference_image", "image", is_fitted=False), FUN_CHANNELS, REFERENCE),
)

# Source: aigc-apps/VideoX-Fun config/wan2.2/wan_civitai_i2v.yaml.
CONTROL_A14B = replace(
    CONTROL,
    name="wan2.2-fun-a14b-control",
    title="Wan2.2 Fun-A14B-Control",
    model_version="2.2",
    traits=Traits(MASKED_CONTROL_CHANNELS, (REFERENCE_BRANCH,), is_dual=True),
    sampling=replace(SAMPLING, boundary=0.9),
    inputs=Inputs(optional=("image", "end_image", "control_video", "reference_image")),
    units=(PROMPTS, FUN_CHANNELS, REFERENCE),
)

CONTROL_EXPERT = replace(
    CONTROL_A14B,
    name="wan2.2-fun-control",
    title="Wan2.2 Fun Control with one transformer",
    traits=Traits(MASKED_CONTROL_CHANNELS, (REFERENCE_BRANCH,)),
    sampling=SAMPLING,
)

DEMO_CONTROL = replace(
    CONTROL_EXPERT,
    name="wan2.2-fun-control-demo",
    title="Demo control (outlines of shapes)",
    traits=replace(CONTROL_EXPERT.traits, size=DEMO_I2V.traits.size),
    sampling=DEMO_I2V.sampling,
    inputs=Inputs(optional=("image", "control_video")),
    remark_on_prompt=remark_on_guided_prompt,
)
