"""The stage that takes no step: the video that is begun with stays as the VAE encodes it."""

from __future__ import annotations

from typing import cast

import mlx.core as mx

from mlx_video.conditioning.frames import impose_first_frames
from mlx_video.conditioning.latent_frames import VIDEO_ALONE, LatentFrames
from mlx_video.conditioning.units import Fields
from mlx_video.events import Work
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import Stage


def keep_video(run: Run, conditioning: Fields) -> Work[mx.array]:
    """Latents [C, T, H, W] of the video that is begun with; a model that holds a first frame keeps that."""
    yield from ()  # nothing is computed here
    latents = cast(mx.array, conditioning["start_latents"])
    if "first_frames" in conditioning:
        latents = impose_first_frames(latents, cast(mx.array, conditioning["first_frames"]))
    return cast(LatentFrames, conditioning.get("frames", VIDEO_ALONE)).select_result(latents)


KEEP = Stage("keep", keep_video, takes=("conditioning",), gives="latents", is_reported=False)
