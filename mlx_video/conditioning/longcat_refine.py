"""LongCat-Video's refinement: a video of 480p that becomes one of 720p with twice the frames.

Source: meituan-longcat/LongCat-Video longcat_video/pipeline_longcat_video.py, generate_refine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, repeat

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import encode_frames, group_frames
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs
from mlx_video.events import Work
from mlx_video.media.upsample import upsample
from mlx_video.models.block_context import Pass
from mlx_video.models.longcat.block_sparse import SIDE, attend_in_blocks
from mlx_video.models.video_transformer import VideoTransformer

REFINED = "longcat_refine"
SIZE_STEP = 64
"""Pixels of a block's side: 4 tokens of 2 latent cells of 8 pixels."""
PART_FRAMES = 93
"""Most frames that are refined at once."""
SHARED_FRAMES = 13
"""Frames that a part of them has in common with the part before."""
PADDING = 3
"""Frames before those that are shared, for their latent frames to fill blocks."""
REFINED_TAIL = 2 * SHARED_FRAMES + PADDING
"""Refined frames that a part begins with."""


def count_refined(num_frames: int, stride: int, given: int = 0) -> tuple[int, int]:
    """Frames that are shown, and that are made: so many that the latent frames fill blocks.

    Args:
        num_frames: of the video that is refined, or of a part of it.
        stride: pixel frames of a latent frame.
        given: frames that the part begins with, which are refined already; :data:`REFINED_TAIL` or none.
    """
    shown = 2 * num_frames - (given and 2 * SHARED_FRAMES)
    noisy = -(-shown // (stride * SIDE)) * SIDE
    made = given + stride * noisy if given else stride * (noisy - 1) + 1
    return min(shown, made), made


def count_parts(num_frames: int) -> int:
    """How many parts a video of so many frames is refined in."""
    return 1 + max(0, -(-(num_frames - PART_FRAMES) // (PART_FRAMES - SHARED_FRAMES)))


def find_start(refined_frames: int) -> int:
    """The first frame of the part behind so many refined frames."""
    return refined_frames // 2 - SHARED_FRAMES if refined_frames else 0


def _encode_refined(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    geometry, part = inputs.geometry, inputs.part
    start = find_start(part.first_frame + REFINED_TAIL) if part.history else 0
    frames = [*islice(inputs.videos[REFINED](), start, start + PART_FRAMES)]
    larger = upsample(frames, 2 * len(frames), geometry.height, geometry.width)
    padded = _pad(larger, PADDING if part.history else 0)
    fields: dict[str, object] = {"refining_add_on": _see_few_blocks}
    with encoders.open_vae() as encode:
        latents = yield from encode_frames(encode, islice(padded, geometry.num_frames), geometry)
        mx.eval(latents)
        if part.history:
            given = islice(_pad(islice(part.history(), PADDING, None), PADDING), REFINED_TAIL)
            fields["first_frames"] = yield from encode(map(mx.array, group_frames(given)), REFINED_TAIL)
            mx.eval(fields["first_frames"])
    return {"start_latents": latents, **fields}


def _pad(frames: Iterator[np.ndarray], before: int) -> Iterator[np.ndarray]:
    """The first frame so many times, all frames, and then the last of them without end."""
    frame = next(frames)
    yield from repeat(frame, before + 1)
    for frame in frames:
        yield frame
    while True:
        yield frame


def _see_few_blocks(transformer: VideoTransformer, one: Pass) -> Pass:
    """A pass in which tokens see the blocks that suit them."""
    return replace(one, attention=attend_in_blocks, shares_tokens=False)


REFINE = ConditioningUnit(
    "video to refine",
    "image",
    ("start_latents", "first_frames", "refining_add_on"),
    _encode_refined,
    lambda inputs: REFINED in inputs.videos,
)
"""Latents that refinement begins with, and its attention."""
