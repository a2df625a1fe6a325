"""A clip of LongCat-Video that begins with several frames, which stay clean in every step."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.continuation.count_tail import count_tail
from mlx_video.conditioning.continuation.part import EarlierVideo
from mlx_video.conditioning.continuation.way import Continuation, in_size_of_earlier
from mlx_video.conditioning.longcat import TAIL_FRAMES, VIDEO
from mlx_video.conditioning.longcat_refine import PART_FRAMES, REFINED_TAIL
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.media.sources.source_video import SourceVideo
from mlx_video.request import GenerateRequest


def _count_shared(request: GenerateRequest, config: ModelConfig, title: str) -> int:
    if request.longcat_refine is None:
        return count_tail(TAIL_FRAMES)(request, config, title)
    if request.continue_frames is not None:
        raise RequestError(
            "continue_frames", "beside --longcat-refine: parts have 13 in common. Leave it out."
        )
    return REFINED_TAIL


def _begin(request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig) -> GenerateRequest:
    """The request with the end of what is before it; parts of a refinement read that as their history."""
    if request.longcat_refine is None:
        return _with_video(request, earlier, config)
    if earlier.made is None:
        raise RequestError("continue_from", "beside --longcat-refine: that video is refined as a whole.")
    return request


def _with_video(request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig) -> GenerateRequest:
    """The request with the last frames as the video to go on from."""
    frames = earlier.tail
    tail = SourceVideo(
        f"{len(frames)} frames to go on from", None, lambda: ((frame, 1.0) for frame in frames)
    )
    # They are at the model's rate.
    return replace(in_size_of_earlier(request, earlier, config), longcat_video=tail, video_fps=None)


LONGCAT_TAIL = Continuation(
    _count_shared,
    _begin,
    replaces=("image", VIDEO),
    most_new=lambda request: 2 * PART_FRAMES if request.longcat_refine is not None else None,
    reads_history=True,
    reads_on=True,
    noise_goes_on=True,
    matches_colours=False,
)
"""The way of LongCat-Video.

Source: meituan-longcat/LongCat-Video run_demo_long_video.py, both loops.
"""
