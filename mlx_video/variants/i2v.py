"""Image-to-video: Wan2.1 with CLIP, from one frame or two, and Wan2.2's two experts without it."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.continuation.last_frame import LAST_FRAME
from mlx_video.conditioning.control.units import ONE_FRAME
from mlx_video.conditioning.frames import concat_first_and_last_frame, concat_first_frame, concat_given_frames
from mlx_video.conditioning.units import IMAGE_TOKENS, PROMPTS, frames_unit, unless
from mlx_video.config import DEFAULT_NEGATIVE_PROMPT, SamplingDefaults
from mlx_video.geometry import size_for_area
from mlx_video.variants.demo_prompts import remark_on_demo_prompt
from mlx_video.variants.variant import Inputs, LowAreaShift, Traits, Variant

# The official task tables put these before the family's negative prompt.
NO_SHAKING = "镜头晃动，"
NO_CUTS = "镜头切换，"

AREA_480P = 832 * 480
# 16 of the noise, 4 of the mask and 16 of the condition go in.
CHANNELS = (36, 16)
# Reads CLIP features; with two images, places tell these apart.
IMAGE_BRANCH = "img_emb.proj."
IMAGE_PLACES = "img_emb.emb_pos"

FIRST_FRAME = (PROMPTS, IMAGE_TOKENS, frames_unit("first frame", ("concat_latents",), concat_first_frame))
FIRST_AND_LAST_FRAME = frames_unit("first and last frame", ("concat_latents",), concat_first_and_last_frame)

# These models are not trained with a last frame, but follow one.
GIVEN_FRAMES = frames_unit("given frames", ("concat_latents",), concat_given_frames)

# Source: kohya-ss/musubi-tuner docs/wan_1f.md.
PICTURE = ("target_index", "control_image", "control_index")

DEMO_I2V = Variant(
    name="wan2.2-i2v-demo",
    title="Demo image-to-video (coloured shapes)",
    model_version="2.2",
    model_type="i2v",
    traits=Traits(CHANNELS, size=(192, 6)),
    sampling=SamplingDefaults(
        steps=30, shift=5.0, guide_scale=(3.0, 3.0), num_frames=17, width=64, height=64, max_area=64 * 64
    ),
    inputs=Inputs(required=("prompt", "image")),
    units=FIRST_FRAME,
    continuation=LAST_FRAME,
    choose_size=size_for_area,
    remark_on_prompt=remark_on_demo_prompt,
)

I2V_14B = Variant(
    name="wan2.1-i2v-14b",
    title="Wan2.1 I2V 14B",
    model_version="2.1",
    model_type="i2v",
    traits=Traits(CHANNELS, (IMAGE_BRANCH,)),
    sampling=SamplingDefaults(
        steps=40, max_area=AREA_480P, negative_prompt=NO_SHAKING + DEFAULT_NEGATIVE_PROMPT
    ),
    inputs=Inputs(required=("prompt", "image"), optional=("end_image",), one_frame=PICTURE),
    units=(PROMPTS, IMAGE_TOKENS, unless(ONE_FRAME, GIVEN_FRAMES), ONE_FRAME),
    continuation=LAST_FRAME,
    choose_size=size_for_area,
    low_area_shift=LowAreaShift(max_area=AREA_480P, shift=3.0),
    remark=(
        "The 480P and the 720P checkpoint have the same structure, so the default size is 832x480 for both; "
        "the 720P one is made for --width 1280 --height 720."
    ),
)

FLF2V_14B = Variant(
    name="wan2.1-flf2v-14b",
    title="Wan2.1 FLF2V 14B",
    model_version="2.1",
    model_type="flf2v",
    traits=Traits(CHANNELS, (IMAGE_BRANCH, IMAGE_PLACES)),
    sampling=SamplingDefaults(
        shift=16.0,
        width=1280,
        height=720,
        max_area=1280 * 720,
        negative_prompt=NO_CUTS + NO_SHAKING + DEFAULT_NEGATIVE_PROMPT,
    ),
    inputs=Inputs(required=("prompt", "image", "end_image"), one_frame=PICTURE),
    units=(PROMPTS, IMAGE_TOKENS, unless(ONE_FRAME, FIRST_AND_LAST_FRAME), ONE_FRAME),
    continuation=LAST_FRAME,
    choose_size=size_for_area,
)

I2V_A14B = Variant(
    name="wan2.2-i2v-a14b",
    title="Wan2.2 I2V A14B",
    model_version="2.2",
    model_type="i2v",
    traits=Traits(CHANNELS, is_dual=True),
    sampling=SamplingDefaults(
        steps=40,
        guide_scale=(3.5, 3.5),
        boundary=0.9,
        width=1280,
        height=720,
        max_area=1280 * 720,
    ),
    inputs=Inputs(required=("prompt", "image"), optional=("end_image",)),
    units=(PROMPTS, IMAGE_TOKENS, GIVEN_FRAMES),
    continuation=LAST_FRAME,
    choose_size=size_for_area,
)

I2V_EXPERT = replace(
    I2V_A14B,
    name="wan2.2-i2v",
    title="Wan2.2 I2V with one transformer",
    traits=Traits(CHANNELS),
    sampling=replace(I2V_A14B.sampling, boundary=0.0),
)
