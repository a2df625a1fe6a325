"""Any folder that holds a checkpoint: tells its layout and finds its files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from mlx_video.errors import CheckpointError
from mlx_video.files.file_bytes import refuse_dangling
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.layouts.checkpoint_files import CheckpointFiles, PartName
from mlx_video.layouts.diffusers_folder import open_diffusers_folder
from mlx_video.layouts.folder_layout import Layout, recognise_layout
from mlx_video.layouts.original_folder import open_original_folder

_OPENERS: Mapping[Layout, Callable[[Path, Collection[PartName]], CheckpointFiles]] = MappingProxyType(
    {
        "original": open_original_folder,
        "original_dual": open_original_folder,
        "diffusers": open_diffusers_folder,
    }
)


def open_checkpoint(path: Path, given: Collection[PartName] = ()) -> CheckpointFiles:
    """Find every component of a checkpoint folder whose layout names its files.

    Args:
        path: a folder in the original or in Diffusers' layout.
        given: parts that the user has elsewhere, so that they may be absent here.

    Returns:
        All files of the checkpoint; shards are complete and agree with their index.

    Raises:
        CheckpointError: the folder is missing, is of another layout, or lacks a component.
    """
    if not path.exists():
        reason = explain_missing(path, "no such folder. Check the path, or download the checkpoint first.")
        raise CheckpointError(f"{path}: {reason}")
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file. Give the folder of the checkpoint that holds it.")
    layout = recognise_layout(path)
    refuse_ready(path, layout)
    if layout not in _OPENERS:
        refuse_dangling(*sorted(path.iterdir()))
        raise CheckpointError(
            f"{path}: no transformer found, expected diffusion_pytorch_model*.safetensors. {_advice(path)}"
        )
    return _OPENERS[layout](path, given)


def refuse_ready(place: Path | str, layout: Layout) -> None:
    """Refuse to convert a folder or a repository that can be run.

    Raises:
        CheckpointError: it is of such a layout.
    """
    run = f"python -m mlx_video.generate_wan --model-dir {place}"
    if layout == "converted":
        raise CheckpointError(
            f"{place}: is already an MLX folder. To quantize it use --quantize-only. To run it: {run}"
        )
    if layout == "fastvideo":
        raise CheckpointError(
            f"{place}: is a FastVideo MLX folder, which is not converted but run as it is: {run}"
        )


def _advice(path: Path) -> str:
    below = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    known = (*_OPENERS, "comfy", "lightx2v")
    checkpoint = next((entry for entry in below if recognise_layout(entry) in known), None)
    if checkpoint is not None:
        return f"Did you mean {checkpoint}?"
    return "Give the folder of a Wan-AI repository, downloaded whole."
