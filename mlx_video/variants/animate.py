"""Animate: a character does what a video of poses and a face shows, or takes a person's place in a video."""

from __future__ import annotations

from mlx_video.conditioning.animate import (
    ANIMATE,
    BACKGROUND,
    FACE,
    LEADING_FRAMES,
    MASK,
    POSES,
)
from mlx_video.conditioning.continuation.pose_segments import SEGMENTS
from mlx_video.conditioning.units import PROMPTS
from mlx_video.config import FACE_SIZE, SamplingDefaults
from mlx_video.geometry import size_as_shown
from mlx_video.models.animate.animate import AnimateTransformer
from mlx_video.models.animate.animate_memory import animate_peak
from mlx_video.models.animate.face_adapter import order_face_blocks
from mlx_video.variants.i2v import CHANNELS, IMAGE_BRANCH
from mlx_video.variants.variant import Inputs, Traits, Variant
from mlx_video.weights.names.animate_names import (
    ANIMATE_DIFFUSERS_RULES,
    ANIMATE_RULES,
    PARTS,
    animate_tensors,
)
from mlx_video.weights.network import TransformerNetwork

NETWORK = TransformerNetwork(
    build=AnimateTransformer,
    extra_tensors=animate_tensors,
    extra_rules=ANIMATE_RULES,
    extra_diffusers_rules=ANIMATE_DIFFUSERS_RULES,
    peak=animate_peak,
    further_blocks=order_face_blocks,
)

# Source: Wan2.2 wan/configs/wan_animate_14B.py.
ANIMATE_14B = Variant(
    name="wan2.2-animate-14b",
    title="Wan2.2 Animate 14B",
    model_version="2.2",
    model_type="animate",
    traits=Traits(CHANNELS, (IMAGE_BRANCH, *PARTS)),
    network=NETWORK,
    sampling=SamplingDefaults(
        steps=20, shift=5.0, guide_scale=(1.0, 1.0), fps=30, num_frames=77, width=1280, height=720
    ),
    inputs=Inputs(
        required=("prompt", "image", POSES, FACE),
        optional=(BACKGROUND, MASK),
        sized_by=POSES,
        own_sizes={FACE: (FACE_SIZE, FACE_SIZE)},
    ),
    units=(PROMPTS, ANIMATE),
    continuation=SEGMENTS,
    choose_size=size_as_shown,
    leading_frames=LEADING_FRAMES,
)
