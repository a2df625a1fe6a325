"""The stage that writes the final latents where the user asked for them."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.events import FileWritten, Work
from mlx_video.latents.latents_file import save_latents
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import Stage


def write_latents(run: Run, latents: mx.array) -> Work[None]:
    """Write latents [C, T, H, W] with the settings that made them."""
    path = run.request.latents_path
    assert path is not None  # the stage is left out without
    save_latents(path, latents, run.settings())
    yield FileWritten(path)


SAVE_LATENTS = Stage(
    "save latents",
    write_latents,
    takes=("latents",),
    is_needed=lambda run, latents: run.request.latents_path is not None,
    is_reported=False,
)
