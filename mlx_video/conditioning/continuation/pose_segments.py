"""Segments of Animate: as many as the poses need, each beginning with the last frames of the one before."""

from __future__ import annotations

from mlx_video.conditioning.continuation.part import MadeParts
from mlx_video.conditioning.continuation.way import Continuation, Length
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.media.sources.pick_frames import count_frames
from mlx_video.media.sources.source_video import open_video
from mlx_video.request import GenerateRequest

SHARED = (1, 5)
"""Frames that a segment may take of the one before; the first is the default."""


def _count_shared(request: GenerateRequest, config: ModelConfig, title: str) -> int:
    asked, num_frames = request.continue_frames, request.num_frames or config.sampling.num_frames
    shared = SHARED[0] if asked is None else asked
    if shared not in SHARED:
        raise RequestError(
            "continue_frames", f"{shared}: {title} goes on from {' or '.join(map(str, SHARED))} frames."
        )
    if shared >= num_frames:
        raise RequestError(
            "num_frames",
            f"{num_frames}: a segment shows {shared} of the one before again. Ask for {shared + 4} or more.",
        )
    return shared


def _find_length(request: GenerateRequest, config: ModelConfig) -> Length | None:
    """The length of the poses.

    Source: Wan2.2 wan/animate.py, WanAnimate.get_valid_len.
    """
    if request.animate_pose_video is None:
        return None
    if request.continue_from is not None and not isinstance(request.continue_from, MadeParts):
        raise RequestError(
            "continue_from",
            "Animate's video begins where its poses begin. Give the poses of the whole video instead.",
        )
    shared = _count_shared(request, config, "Animate")
    video = open_video(request.animate_pose_video)
    frames = count_frames(video, config.sampling.fps, request.video_fps)
    new = (request.num_frames or config.sampling.num_frames) - shared
    parts = max(-(-(frames - shared) // new), 1)
    return Length(parts, frames, f"the poses make {frames} frames")


SEGMENTS = Continuation(
    _count_shared,
    begin=lambda request, earlier, config: request,  # the poses decide the size
    reads_history=True,
    is_exact=True,
    reads_on=True,
    turns_back=True,
    find_length=_find_length,
    noise_goes_on=True,
    matches_colours=False,
)
"""The way of Animate.

Source: Wan2.2 wan/animate.py, WanAnimate.generate.
"""
