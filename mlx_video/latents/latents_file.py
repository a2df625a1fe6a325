"""Latents in a file of their own, so that a run can be decoded or examined later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from mlx_video.errors import CheckpointError, MediaError
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.formats.safetensors_header import read_header
from mlx_video.latents.array_file import read_arrays, write_arrays

TENSOR_NAME = "latents"
STATE_KEY = "run_state"  # the text by which the state of a run is told from final latents


def save_latents(path: Path, latents: mx.array, settings: Mapping[str, str]) -> None:
    """Write latents and the run's settings as a safetensors file that appears complete or not at all.

    Args:
        path: final name, whatever its suffix; the folder is created.
        latents: [C, T, H, W] in latent cells, float32.
        settings: kept as the file's metadata.

    Raises:
        MediaError: the file cannot be written.
        ValueError: other shape or dtype.
    """
    if latents.ndim != 4 or latents.dtype != mx.float32:
        raise ValueError(f"latents are {latents.dtype} {latents.shape}, expected float32 [C, T, H, W].")
    write_arrays(path, {TENSOR_NAME: latents}, settings)


def load_latents(path: Path) -> tuple[mx.array, dict[str, str]]:
    """Read what `save_latents` wrote, or the latents of a run's state.

    Args:
        path: the file, of any suffix.

    Returns:
        Latents [C, T, H, W], float32, and the settings.

    Raises:
        MediaError: the file is missing, damaged, or holds something else.
    """
    if path.is_dir():
        raise MediaError(f"{path}: is a folder. Give the file that --save-latents wrote, or a run's state.")
    if not path.is_file():
        raise MediaError(f"{path}: {explain_missing(path, 'no such file. --save-latents writes one.')}")
    tensors, settings = read_arrays(path)
    return _checked(path, tensors), settings


def is_latents_file(path: Path) -> bool:
    """Whether `save_latents` wrote a file, told by its header; a run's state, which holds more, is none."""
    try:
        header = read_header(path)
    except CheckpointError:
        return False
    if header.infos.keys() != {TENSOR_NAME} or STATE_KEY in header.metadata:
        return False
    info = header.infos[TENSOR_NAME]
    return len(info.shape) == 4 and info.dtype == "F32"


def _checked(path: Path, tensors: Mapping[str, mx.array]) -> mx.array:
    if TENSOR_NAME not in tensors:
        names = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise MediaError(f"{path}: holds {names}, but no tensor {TENSOR_NAME!r}. Is it a weight file?")
    latents = tensors[TENSOR_NAME]
    if latents.ndim != 4 or latents.dtype != mx.float32:
        raise MediaError(
            f"{path}: {TENSOR_NAME} is {latents.dtype} {latents.shape}, expected float32 [C, T, H, W]. "
            "Save it again with --save-latents."
        )
    return latents
