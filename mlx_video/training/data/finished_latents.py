"""Latents that a run wrote, as clips: exactly what it made, with its prompt and its seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_video.config import VAEConfig
from mlx_video.errors import DatasetError
from mlx_video.formats.safetensors_header import read_header
from mlx_video.geometry import pixel_frames
from mlx_video.latents.latents_file import TENSOR_NAME, is_latents_file, load_latents
from mlx_video.training.data.clip_reader import ClipFacts
from mlx_video.training.data.clips import Clip
from mlx_video.training.data.input_names import NUMBERS, OPTION_OF, WORDS
from mlx_video.training.data.listed_files import list_files
from mlx_video.training.data.listed_runs import DEVICE, SEED

SUFFIX = ".safetensors"


def is_latents(path: Path) -> bool:
    """Whether a clip is latents, by its name."""
    return path.suffix.lower() == SUFFIX


def list_latents(folder: Path) -> list[Path]:
    """Files of a folder that runs wrote latents to; raises as `list_files`."""
    return [path for path in list_files(folder, {SUFFIX}) if is_latents_file(path)]


def with_told(clip: Clip) -> Clip:
    """A clip of latents, with prompt and seed of its run where nothing else tells them.

    Raises:
        DatasetError: the file holds no latents; or its run had inputs that the clip does not bring.
    """
    if not is_latents(clip.path) or not clip.path.exists():
        return clip
    if not is_latents_file(clip.path):
        raise DatasetError(
            f"{clip.path}: holds no latents of a run. Give those that generate_wan writes with --output-type "
            "latent."
        )
    texts = read_header(clip.path).metadata
    _refuse_lacking(clip, texts)
    told = {DEVICE: "cpu" if texts.get("noise", "torch") == "torch" else texts["noise"]}
    told |= {SEED: texts[SEED]} if SEED in texts else {}
    caption = texts.get("prompt") if clip.caption is None else clip.caption
    return replace(clip, caption=caption, run={**told, **clip.run})


def _refuse_lacking(clip: Clip, texts: Mapping[str, str]) -> None:
    """Refuse latents of a run with inputs that their clip does not bring."""
    for column, option in OPTION_OF.items():
        if option in texts and column not in NUMBERS | WORDS and option not in clip.inputs:
            raise DatasetError(
                f"{clip.path}: its run was given {option}, {texts[option]}. Name that in a list of clips, in "
                f"the column {column}."
            )


def measure_latents(path: Path, vae: VAEConfig) -> ClipFacts:
    """What a clip of latents would show.

    Raises:
        DatasetError: they are another model's.
    """
    channels, frames, height, width = read_header(path).infos[TENSOR_NAME].shape
    if channels != vae.z_dim:
        raise DatasetError(
            f"{path}: has {channels} channels, this model's latents have {vae.z_dim}. Make it with this one."
        )
    return ClipFacts(width * vae.stride[2], height * vae.stride[1], pixel_frames(frames, vae.stride[0]))


def read_latents(path: Path) -> mx.array:
    """Latents [C, T, H, W], float32; raises MediaError where they are damaged."""
    latents, _ = load_latents(path)
    return latents
