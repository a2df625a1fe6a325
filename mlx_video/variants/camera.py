"""Fun Control-Camera models: videos from a first frame, seen by a camera that moves along a given path."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.continuation.last_frame import LAST_FRAME
from mlx_video.conditioning.control.units import CAMERA, FUN_CHANNELS, image_tokens_unit
from mlx_video.conditioning.units import PROMPTS
from mlx_video.geometry import size_for_area
from mlx_video.models.control.control_memory import camera_peak
from mlx_video.variants.fun import NETWORK, SAMPLING
from mlx_video.variants.i2v import CHANNELS as MASKED_CHANNELS
from mlx_video.variants.i2v import IMAGE_BRANCH
from mlx_video.variants.variant import Inputs, Traits, Variant

# 16 of the noise and 16 of the first frame go in.
START_CHANNELS = (32, 16)
CAMERA_BRANCH = "control_adapter."
PATH_OF_CAMERA = ("camera_control_direction", "camera_trajectory")
HOW_IT_MOVES = ("camera_control_speed", "camera_control_origin")

# Source: aigc-apps/VideoX-Fun examples/wan2.1_fun/predict_v2v_control_camera.py.
CAMERA_V1_1 = Variant(
    name="wan2.1-fun-v1.1-control-camera",
    title="Wan2.1 Fun-V1.1 Control-Camera",
    model_version="2.1",
    model_type="i2v",
    traits=Traits(START_CHANNELS, (IMAGE_BRANCH, CAMERA_BRANCH)),
    network=replace(NETWORK, peak=camera_peak),
    sampling=SAMPLING,
    inputs=Inputs(("prompt", "image"), HOW_IT_MOVES, PATH_OF_CAMERA),
    units=(PROMPTS, image_tokens_unit("image", is_fitted=False), FUN_CHANNELS, CAMERA),
    continuation=LAST_FRAME,
    choose_size=size_for_area,
)

CAMERA_A14B = replace(
    CAMERA_V1_1,
    name="wan2.2-fun-a14b-control-camera",
    title="Wan2.2 Fun-A14B-Control-Camera",
    model_version="2.2",
    traits=Traits(MASKED_CHANNELS, (CAMERA_BRANCH,), is_dual=True),
    sampling=replace(SAMPLING, boundary=0.9),
    inputs=Inputs(("prompt", "image"), ("end_image", *HOW_IT_MOVES), PATH_OF_CAMERA),
    units=(PROMPTS, FUN_CHANNELS, CAMERA),
)

CAMERA_EXPERT = replace(
    CAMERA_A14B,
    name="wan2.2-fun-control-camera",
    title="Wan2.2 Fun Control-Camera with one transformer",
    traits=Traits(MASKED_CHANNELS, (CAMERA_BRANCH,)),
    sampling=SAMPLING,
)
