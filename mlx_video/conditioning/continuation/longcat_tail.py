"""A clip of LongCat-Video that begins with several frames, which stay clean in every step."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.continuation.count_tail import count_tail
from mlx_video.conditioning.continuation.part import EarlierVideo
from mlx_video.conditioning.continuation.way import Continuation, in_size_of_earlier
from mlx_video.conditioning.longcat import TAIL_FRAMES, VIDEO
from mlx_video.config import ModelConfig
from mlx_video.media.sources.source_video import SourceVideo
from mlx_video.request import GenerateRequest


def _with_video(request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig) -> GenerateRequest:
    """The request with the last frames as the video to go on from."""
    frames = earlier.tail
    tail = SourceVideo(
        f"{len(frames)} frames to go on from", None, lambda: ((frame, 1.0) for frame in frames)
    )
    # They are at the model's rate.
    return replace(in_size_of_earlier(request, earlier, config), longcat_video=tail, video_fps=None)


LONGCAT_TAIL = Continuation(
    count_tail(TAIL_FRAMES),
    _with_video,
    replaces=("image", VIDEO),
    noise_goes_on=True,
    matches_colours=False,
)
"""The way of LongCat-Video.

Source: meituan-longcat/LongCat-Video run_demo_long_video.py.
"""
