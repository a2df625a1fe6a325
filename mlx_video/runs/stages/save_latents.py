"""The stage that writes the final latents where the user asked for them."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.events import FileWritten, Work
from mlx_video.geometry import latent_frames
from mlx_video.latents.latents_file import save_latents
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import Stage


def write_latents(run: Run, latents: mx.array) -> Work[None]:
    """Write latents [C, T, H, W] with the settings that made them, behind those of the parts before."""
    path = run.request.latents_path
    assert path is not None  # the stage is left out without
    save_latents(path, join_latents(run, latents), run.settings())
    yield FileWritten(path)


def join_latents(run: Run, latents: mx.array) -> mx.array:
    """Latents of all parts, [C, T, H, W], without those of frames that a part shows again.

    Raises:
        MediaError: those of a part before are not kept, or damaged.
    """
    made = run.earlier.made if run.earlier else None
    if made is None:
        return latents
    way, stride = run.variant.continuation, run.config.vae.stride[0]
    again = latent_frames(run.shared_frames, stride) if way and way.is_shown_again else 0
    first, *others = (*made.read_latents(), latents)
    return mx.concatenate([first, *(each[:, again:] for each in others)], axis=1)


SAVE_LATENTS = Stage(
    "save latents",
    write_latents,
    takes=("latents",),
    is_needed=lambda run, latents: run.request.latents_path is not None and run.kept_frames is None,
    is_reported=False,
)
