"""The colours of a model's latents: published, kept from an earlier run, or fitted to its VAE."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from mlx_video.config import find_vae_config
from mlx_video.errors import CheckpointError, MediaError
from mlx_video.events import Notice, Work
from mlx_video.files.cache_folder import cache_folder
from mlx_video.files.whole_file import written_whole
from mlx_video.formats.fingerprint import fingerprint_weights
from mlx_video.latents.colour_tables import PUBLISHED_COLOURS
from mlx_video.latents.colours import FIT_VERSION, LatentColours, draw_latents, fit_colours
from mlx_video.latents.decode import decode_frames
from mlx_video.latents.encode import encode_video
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.vae_halves import check_vae_encoder, read_decoder_width
from mlx_video.runs.networks import use_vae
from mlx_video.runs.run import Run


def find_colours(run: Run) -> LatentColours | None:
    """The colours that are known without work; None where they are to be fitted.

    A VAE as wide as a published one decodes the same latents, whoever trained it on: its transformer has no
    others. Any other network is asked itself.
    """
    config = run.config
    if read_decoder_width(run.model, config) == find_vae_config(config.vae.z_dim).decoder_dim:
        return _from_rows(PUBLISHED_COLOURS[config.vae.z_dim])
    try:
        found = _from_rows(json.loads(_path_of(run.model).read_bytes()))
    except (OSError, ValueError):
        return None
    return found if found.factors.shape == (config.vae.z_dim + 1, 3) else None


def fit_and_keep(run: Run) -> Work[LatentColours]:
    """Fit the colours to what the run's VAE decodes, and keep them for later runs."""
    latents = draw_latents(run.config.vae.z_dim)
    with use_vae(run, "decoder") as vae:
        frames = [next(decode_frames(vae, each)) for each in latents]
    if _encodes_its_own(run):
        with use_vae(run, "encoder") as vae:
            latents = [encode_video(vae, each) for each in frames]
    colours = fit_colours(latents, frames)
    try:
        with written_whole(_path_of(run.model)) as temporary:
            temporary.write_text(json.dumps(colours.factors.tolist()))
    except MediaError as error:
        yield Notice(f"The colours of previews are fitted anew in every run. {error}")
    return colours


def _encodes_its_own(run: Run) -> bool:
    """Whether the VAE has an encoder, which takes frames of the decoder's size."""
    try:
        check_vae_encoder(run.model, run.config)
    except CheckpointError:
        return False
    return run.config.vae.output_scale == 1


def _from_rows(rows: object) -> LatentColours:
    return LatentColours(np.array(rows, np.float32))


def _path_of(model: ModelFolder) -> Path:
    key = f"{fingerprint_weights(model.vae)}, fit {FIT_VERSION}"
    return cache_folder() / "previews" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
