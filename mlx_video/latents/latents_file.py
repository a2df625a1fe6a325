"""Latents in a file of their own, so that a run can be decoded or examined later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video.errors import MediaError
from mlx_video.media.whole_file import written_whole

TENSOR_NAME = "latents"


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
    try:
        # MLX insists on this suffix and would add it to any other name.
        with written_whole(path, ".safetensors") as temporary:
            mx.save_safetensors(str(temporary), {TENSOR_NAME: latents}, _valid_utf8(settings))
    except RuntimeError as error:  # how MLX reports a full disk
        raise MediaError(f"{path}: cannot be written ({error}). Check the free space.") from error


def load_latents(path: Path) -> tuple[mx.array, dict[str, str]]:
    """Read what `save_latents` wrote.

    Args:
        path: the file, of any suffix.

    Returns:
        Latents [C, T, H, W], float32, and the settings.

    Raises:
        MediaError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise MediaError(f"{path}: no such file. --save-latents writes one.")
    try:
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        tensors, settings = loaded
        mx.eval(tensors)  # the file is read here, so that later changes to it do no harm
    except (RuntimeError, ValueError) as error:
        raise MediaError(f"{path}: no complete safetensors file ({error}). Write it again.") from error
    return _checked(path, tensors), dict(settings)


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


def _valid_utf8(settings: Mapping[str, str]) -> dict[str, str]:
    """Half surrogates, which a terminal can hand over, are no UTF-8 and become question marks."""
    return {key: value.encode("utf-8", "replace").decode("utf-8") for key, value in settings.items()}
