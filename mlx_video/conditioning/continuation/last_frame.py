"""A clip that begins with the last frame of what is before it, as an image-to-video model takes an image."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.continuation.part import EarlierVideo
from mlx_video.conditioning.continuation.way import Continuation
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.request import GenerateRequest


def _count_shared(request: GenerateRequest, config: ModelConfig, title: str) -> int:
    if request.continue_frames not in (None, 1):
        raise RequestError(
            "continue_frames",
            f"{request.continue_frames}: clips of {title} begin with one frame. Leave the option out.",
        )
    return 1


def _with_image(request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig) -> GenerateRequest:
    """The request with the last frame as its image, in the earlier video's size."""
    height, width = (side // config.vae.output_scale for side in earlier.last.shape[:2])
    return replace(
        request,
        image=earlier.last,
        width=request.width or (None if request.height else width),
        height=request.height or (None if request.width else height),
    )


LAST_FRAME = Continuation(_count_shared, _with_image, replaces=("image",))
"""The way of image-to-video models."""
