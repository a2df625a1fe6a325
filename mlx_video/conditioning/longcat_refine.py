"""LongCat-Video's refinement: a video of 480p that becomes one of 720p with twice the frames.

Source: meituan-longcat/LongCat-Video longcat_video/pipeline_longcat_video.py, generate_refine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import encode_frames
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs
from mlx_video.events import Work
from mlx_video.media.upsample import upsample
from mlx_video.models.block_context import Pass
from mlx_video.models.longcat.block_sparse import SIDE, attend_in_blocks
from mlx_video.models.video_transformer import VideoTransformer

REFINED = "longcat_refine"
SIZE_STEP = 64
"""Pixels of a block's side: 4 tokens of 2 latent cells of 8 pixels."""


def count_refined(num_frames: int, stride: int) -> tuple[int, int]:
    """Frames that are shown, and that are made: so many that the latent frames fill blocks.

    Args:
        num_frames: of the video that is refined.
        stride: pixel frames of a latent frame.
    """
    shown = 2 * num_frames
    latents = -(-shown // (stride * SIDE)) * SIDE
    made = stride * (latents - 1) + 1
    return min(shown, made), made


def _encode_refined(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    geometry = inputs.geometry
    frames = [*inputs.videos[REFINED]()]
    larger = _with_last_again(upsample(frames, 2 * len(frames), geometry.height, geometry.width))
    with encoders.open_vae() as encode:
        latents = yield from encode_frames(encode, islice(larger, geometry.num_frames), geometry)
        mx.eval(latents)
    return {"start_latents": latents, "refining_add_on": _see_few_blocks}


def _with_last_again(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames, and then the last of them without end."""
    for frame in frames:
        yield frame
    while True:
        yield frame


def _see_few_blocks(transformer: VideoTransformer, one: Pass) -> Pass:
    """A pass in which tokens see the blocks that suit them."""
    return replace(one, attention=attend_in_blocks)


REFINE = ConditioningUnit(
    "video to refine",
    "image",
    ("start_latents", "refining_add_on"),
    _encode_refined,
    lambda inputs: REFINED in inputs.videos,
)
"""Latents that refinement begins with, and its attention."""
