"""VACE: text-to-video with a second stream that reads a video, a mask and what stays of both."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.continuation.vace_tail import VACE_TAIL
from mlx_video.conditioning.control.units import MOTION, SPEED
from mlx_video.conditioning.control.units import VACE as VACE_CONTEXT
from mlx_video.conditioning.units import PROMPTS
from mlx_video.config import SamplingDefaults
from mlx_video.geometry import size_for_area
from mlx_video.models.control.control_memory import vace_peak
from mlx_video.models.control.vace import VACETransformer, order_vace_blocks
from mlx_video.variants.variant import Inputs, Traits, Variant
from mlx_video.weights.names.vace_names import VACE_RULES, vace_tensors
from mlx_video.weights.network import TransformerNetwork

LATENTS = (16, 16)  # channels in and out
PARTS = ("vace_patch_embedding.", "vace_blocks.")

VACE_INPUTS = ("vace_video", "vace_video_mask", "vace_reference_image")
SHORTHANDS = dict.fromkeys(("image", "end_image"), ("vace_video", "vace_video_mask"))

NETWORK = TransformerNetwork(
    build=VACETransformer,
    extra_tensors=vace_tensors,
    extra_rules=VACE_RULES,
    peak=vace_peak,
    further_blocks=order_vace_blocks,
)

# Source: Wan2.1 generate.py, the defaults of its vace tasks.
VACE_1_3B = Variant(
    name="wan2.1-vace-1.3b",
    title="Wan2.1 VACE 1.3B",
    model_version="2.1",
    model_type="vace",
    traits=Traits(LATENTS, PARTS, size=(1536, 30)),
    network=NETWORK,
    sampling=SamplingDefaults(shift=16.0, max_area=832 * 480),
    inputs=Inputs(optional=(*VACE_INPUTS, MOTION), shorthands=SHORTHANDS),
    units=(PROMPTS, SPEED, VACE_CONTEXT),
    continuation=VACE_TAIL,
    choose_size=size_for_area,
)

VACE_14B = replace(
    VACE_1_3B,
    name="wan2.1-vace-14b",
    title="Wan2.1 VACE 14B",
    traits=Traits(LATENTS, PARTS, size=(5120, 40)),
    sampling=SamplingDefaults(shift=16.0, max_area=1280 * 720, width=1280, height=720),
)

VACE_OTHER = replace(
    VACE_1_3B,
    name="wan2.1-vace",
    title="Wan2.1 VACE of another size",
    traits=Traits(LATENTS, PARTS),
)

# Source: aigc-apps/VideoX-Fun config/wan2.2/wan_civitai_t2v.yaml and examples/wan2.2_vace_fun.
VACE_FUN_A14B = replace(
    VACE_1_3B,
    name="wan2.2-vace-fun-a14b",
    title="Wan2.2 VACE-Fun A14B",
    model_version="2.2",
    traits=Traits(LATENTS, PARTS, is_dual=True),
    sampling=SamplingDefaults(shift=12.0, boundary=0.875, max_area=832 * 480),
    inputs=Inputs(optional=VACE_INPUTS, shorthands=SHORTHANDS),
    units=(PROMPTS, VACE_CONTEXT),
)
