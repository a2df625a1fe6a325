"""LongCat-Video: text, image and continuation of a video by one transformer of its own architecture."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.continuation.longcat_tail import LONGCAT_TAIL
from mlx_video.conditioning.longcat import LAST_FRAMES, VIDEO, hold_first_frames
from mlx_video.conditioning.longcat_refine import REFINE, REFINED
from mlx_video.conditioning.units import PROMPTS, frames_unit
from mlx_video.config import SamplingDefaults
from mlx_video.models.longcat.memory import longcat_peak
from mlx_video.models.longcat.transformer import LongCatTransformer
from mlx_video.variants.longcat_refine import find_refined_length, settle_refinement
from mlx_video.variants.longcat_sizes import LARGEST_480P, choose_bucket
from mlx_video.variants.negative_prompts import ENGLISH_NEGATIVE_PROMPT
from mlx_video.variants.variant import Inputs, Traits, Variant
from mlx_video.weights.names.longcat_names import (
    AUTHORS_RULES,
    FUSED_PART,
    is_quantized_longcat_layer,
    longcat_tensors,
    read_longcat_sizes,
)
from mlx_video.weights.network import TransformerNetwork

NETWORK = TransformerNetwork(
    build=LongCatTransformer,
    base_tensors=longcat_tensors,
    extra_diffusers_rules=AUTHORS_RULES[:-1],
    own_sizes=read_longcat_sizes,
    is_quantized=is_quantized_longcat_layer,
    peak=longcat_peak,
    knows_others=True,
)

LONGCAT = Variant(
    name="longcat-video",
    title="LongCat-Video",
    model_version="2.1",
    model_type="longcat",
    traits=Traits((16, 16), (FUSED_PART,)),
    network=NETWORK,
    sampling=SamplingDefaults(
        steps=50,
        shift=12.0,
        guide_scale=(4.0, 4.0),
        fps=15,
        num_frames=93,
        max_area=LARGEST_480P,
        negative_prompt=ENGLISH_NEGATIVE_PROMPT,
        recipe="longcat",
    ),
    inputs=Inputs(optional=(VIDEO,), shorthands={"image": (VIDEO,), REFINED: ("image", VIDEO)}),
    units=(PROMPTS, frames_unit("first frame", ("first_frames",), hold_first_frames), LAST_FRAMES, REFINE),
    continuation=replace(LONGCAT_TAIL, find_length=find_refined_length),
    settle=settle_refinement,
    choose_size=choose_bucket,
)
