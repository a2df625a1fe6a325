"""Video-As-Prompt: image-to-video that takes over what a reference video shows."""

from __future__ import annotations

from mlx_video.conditioning.control.video_prompt import (
    IMAGE_VIEWS,
    REFERENCE_PROMPTS,
    REFERENCE_VIDEO,
    SQUASHED_FRAMES,
    VAP_VIDEO,
)
from mlx_video.conditioning.units import PROMPTS
from mlx_video.config import SamplingDefaults
from mlx_video.geometry import size_for_area
from mlx_video.models.control.control_memory import mot_peak
from mlx_video.models.control.mot import MoTTransformer
from mlx_video.variants.i2v import AREA_480P, CHANNELS, IMAGE_BRANCH
from mlx_video.variants.negative_prompts import ENGLISH_NEGATIVE_PROMPT
from mlx_video.variants.variant import Inputs, Traits, Variant
from mlx_video.weights.names.mot_names import EXPERT, MOT_DIFFUSERS_RULES, MOT_RULES, mot_tensors
from mlx_video.weights.network import TransformerNetwork

# Source: bytedance/Video-As-Prompt README and diffusers pipeline_wan_i2v_mot.py, WanImageToVideoMOTPipeline;
# the shift is that of the checkpoint's scheduler.
VIDEO_AS_PROMPT = Variant(
    name="wan2.1-video-as-prompt-14b",
    title="Video-As-Prompt 14B",
    model_version="2.1",
    model_type="i2v",
    traits=Traits(CHANNELS, (IMAGE_BRANCH, EXPERT)),
    network=TransformerNetwork(
        build=MoTTransformer,
        extra_tensors=mot_tensors,
        extra_rules=MOT_RULES,
        extra_diffusers_rules=MOT_DIFFUSERS_RULES,
        peak=mot_peak,
    ),
    sampling=SamplingDefaults(
        shift=4.0, num_frames=49, max_area=AREA_480P, negative_prompt=ENGLISH_NEGATIVE_PROMPT
    ),
    inputs=Inputs(
        required=("prompt", "image", VAP_VIDEO, "vap_prompt"),
        optional=("end_image", "negative_vap_prompt"),
    ),
    units=(PROMPTS, REFERENCE_PROMPTS, IMAGE_VIEWS, SQUASHED_FRAMES, REFERENCE_VIDEO),
    choose_size=size_for_area,
)
