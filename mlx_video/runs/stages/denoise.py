"""The stage that walks noise down to latents."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.conditioning.units import Fields, build_conditioning
from mlx_video.events import Work
from mlx_video.latents.colours import LatentColours
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.sample import sample_latents
from mlx_video.runs.stages.stage import Stage


def denoise_conditioned(run: Run, conditioning: Fields, colours: LatentColours | None) -> Work[mx.array]:
    """Make latents [C, T, H, W] under the conditioning that all encoding stages have filled."""
    return sample_latents(run, build_conditioning(conditioning), colours)


DENOISE = Stage("denoise", denoise_conditioned, takes=("conditioning", "colours"), gives="latents")
