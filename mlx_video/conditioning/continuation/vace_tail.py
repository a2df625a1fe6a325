"""A clip of a VACE model that begins with several frames, as a video that is filled in behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mlx_video.conditioning.continuation.count_tail import count_tail
from mlx_video.conditioning.continuation.part import EarlierVideo
from mlx_video.conditioning.continuation.way import Continuation, in_size_of_earlier
from mlx_video.config import ModelConfig
from mlx_video.media.sources.source_video import SourceVideo, TimedFrame
from mlx_video.request import GenerateRequest

USUAL_TAIL = 17
"""Frames of an earlier video that a clip begins with."""
GREY = 128
"""The level next to 0 in [-1, 1]: what VACE sees of frames that are to be made."""


def _with_video(request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig) -> GenerateRequest:
    """The request with the last frames as a video, and a mask of what is behind them."""
    num_frames = request.num_frames or config.sampling.num_frames
    kept = (np.zeros_like(earlier.last),) * len(earlier.tail)
    return replace(
        in_size_of_earlier(request, earlier, config),
        vace_video=_given_then("video", earlier.tail, GREY, num_frames),
        vace_video_mask=_given_then("mask", kept, 255, num_frames),
        video_fps=None,  # the tail is at the model's rate
    )


def _given_then(what: str, given: Sequence[np.ndarray], level: int, num_frames: int) -> SourceVideo:
    """Some frames, and flat ones behind them up to `num_frames`."""

    def read() -> Iterator[TimedFrame]:
        yield from ((frame, 1.0) for frame in given)
        flat = np.full_like(given[0], level)
        yield from ((flat, 1.0) for _ in range(num_frames - len(given)))

    return SourceVideo(f"{what} of {len(given)} frames to go on from", None, read)


VACE_TAIL = Continuation(
    count_tail(USUAL_TAIL), _with_video, replaces=("image",), refuses=("vace_video", "vace_video_mask")
)
"""The way of VACE models."""
