"""What LongCat-Video takes besides text: frames that stand clean before the noise."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.frames import Encoding, FrameEncoder, FrameFields
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs
from mlx_video.events import Work
from mlx_video.geometry import VideoGeometry
from mlx_video.media.resize import resize_lanczos, to_unit_range

VIDEO = "longcat_video"
TAIL_FRAMES = 13
"""Frames of an earlier video that one begins with. Source: meituan-longcat/LongCat-Video
run_demo_video_continuation.py."""


def hold_first_frames(
    encode: FrameEncoder, images: Sequence[np.ndarray], geometry: VideoGeometry
) -> Encoding[FrameFields]:
    """Latents of the first frames, which the model is given in place of noise.

    Args:
        encode: the VAE; its mean latents, of which the authors' code draws a sample.
        images: 4n+1 frames, uint8 [H, W, 3], stretched to the video's size.
        geometry: of the video.

    Returns:
        `first_frames` [C, n+1, h, w].

    Source: meituan-longcat/LongCat-Video longcat_video/pipeline_longcat_video.py, prepare_latents.
    """
    fitted = [to_unit_range(resize_lanczos(image, geometry.height, geometry.width)) for image in images]
    stride = geometry.frames_of_latent
    chunks = [fitted[:1], *(fitted[first : first + stride] for first in range(1, len(fitted), stride))]
    first_frames = yield from encode((mx.array(np.stack(chunk)) for chunk in chunks), len(fitted))
    return {"first_frames": first_frames}


def _hold_last_frames(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    with encoders.open_vae() as encode:
        fields = yield from hold_first_frames(encode, [*inputs.videos[VIDEO]()], inputs.geometry)
        mx.eval(fields)
    return {**fields, "remembers_first_frames": inputs.options["longcat_kv_cache"]}


LAST_FRAMES = ConditioningUnit(
    "last frames of a video",
    "image",
    ("first_frames", "remembers_first_frames"),
    _hold_last_frames,
    lambda inputs: VIDEO in inputs.videos,
)
"""Latents of the last frames of an earlier video."""
