"""Checkpoint folders as Wan publishes them: which file is which component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_video.checkpoint.file_kind import refuse_stand_in
from mlx_video.checkpoint.folder_layout import (
    CONFIG_FILE,
    EXPERT_FOLDERS,
    TOKENIZER_FILES,
    Layout,
    is_tokenizer_folder,
    read_json_object,
    recognise_layout,
)
from mlx_video.checkpoint.shards import transformer_files
from mlx_video.errors import CheckpointError

TEXT_ENCODER_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE_ENCODER_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE_FILES = {"2.1": "Wan2.1_VAE.pth", "2.2": "Wan2.2_VAE.pth"}
TOKENIZER_FOLDER = "google/umt5-xxl"

_UNSUPPORTED: dict[Layout, str] = {
    "fastvideo": "a FastVideo MLX folder (mlx_dit.json)",
    "diffusers": "a Diffusers folder (model_index.json or transformer/)",
    "lightx2v": "a LightX2V folder (non_block.safetensors)",
    "comfy": "a ComfyUI folder (diffusion_models/, text_encoders/)",
}


@dataclass(frozen=True, slots=True)
class OriginalFolder:
    """The files of an original checkpoint, all present.

    Attributes:
        path: the folder.
        transformers: "model", or "low_noise" and "high_noise" → its weight files in shard order.
        transformer_configs: the same keys → the config.json beside the weights.
        text_encoder: the UMT5 file.
        vaes: "2.1" and/or "2.2" → the VAE file of that generation. Where both lie in the folder, the number
            of latent channels decides which one belongs to the transformer.
        tokenizer: the folder of the UMT5 tokenizer.
        image_encoder: the CLIP file, which Wan2.1's image-to-video models come with; None without it.
    """

    path: Path
    transformers: Mapping[str, tuple[Path, ...]]
    transformer_configs: Mapping[str, dict[str, Any]]
    text_encoder: Path
    vaes: Mapping[str, Path]
    tokenizer: Path
    image_encoder: Path | None

    @property
    def vae(self) -> Path:
        """The one VAE file.

        Raises:
            CheckpointError: there are two.
        """
        if len(self.vaes) > 1:
            names = " and ".join(path.name for path in self.vaes.values())
            raise CheckpointError(f"{self.path}: has {names}. Keep the one that belongs to this model.")
        return next(iter(self.vaes.values()))


def open_original_folder(path: Path) -> OriginalFolder:
    """Find every component of an original Wan checkpoint.

    Args:
        path: a folder with one transformer (Wan2.1, TI2V-5B) or two (A14B).

    Returns:
        All files of the checkpoint; shards are complete and agree with their index.

    Raises:
        CheckpointError: the folder is missing, is of another layout, or lacks a component.
    """
    _check_is_folder(path)
    layout = recognise_layout(path)
    _check_layout(path, layout)
    folders = _transformer_folders(path, layout)
    transformers = {name: transformer_files(folder) for name, folder in folders.items()}
    _check_parts(path, folders)
    _check_tokenizer(path / TOKENIZER_FOLDER)
    image_encoder = path / IMAGE_ENCODER_FILE
    return OriginalFolder(
        path=path,
        transformers=transformers,
        transformer_configs={name: read_json_object(f / CONFIG_FILE) for name, f in folders.items()},
        text_encoder=path / TEXT_ENCODER_FILE,
        vaes={key: path / name for key, name in VAE_FILES.items() if (path / name).is_file()},
        tokenizer=path / TOKENIZER_FOLDER,
        image_encoder=image_encoder if image_encoder.is_file() else None,
    )


def _check_is_folder(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder. Check the path, or download the checkpoint first.")
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file. Give the folder of the checkpoint that holds it.")


def _check_layout(path: Path, layout: Layout) -> None:
    if layout == "converted":
        raise CheckpointError(f"{path}: is already an MLX folder. To quantize it use --quantize-only.")
    if layout in _UNSUPPORTED:
        raise CheckpointError(
            f"{path}: looks like {_UNSUPPORTED[layout]}, which is not supported yet. "
            "Use the original Wan-AI repository."
        )
    if path.resolve().name in EXPERT_FOLDERS.values() and layout == "original":
        raise CheckpointError(f"{path}: is one of two experts. Give the folder above it.")
    if layout == "unknown":
        raise CheckpointError(
            f"{path}: no transformer found, expected diffusion_pytorch_model*.safetensors. {_advice(path)}"
        )


def _advice(path: Path) -> str:
    below = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    checkpoint = next((entry for entry in below if recognise_layout(entry).startswith("original")), None)
    if checkpoint is not None:
        return f"Did you mean {checkpoint}?"
    return "Give the folder of a Wan-AI repository, downloaded whole."


def _transformer_folders(path: Path, layout: Layout) -> dict[str, Path]:
    if layout == "original":
        return {"model": path}
    folders = {expert: path / name for expert, name in EXPERT_FOLDERS.items()}
    for folder in folders.values():
        if not folder.is_dir():
            other = next(f.name for f in folders.values() if f != folder)
            raise CheckpointError(
                f"{path}: {folder.name}/ not found beside {other}/. A Wan2.2 A14B model needs both; fetch it."
            )
    return folders


def _check_tokenizer(folder: Path) -> None:
    for file in (folder / name for name in TOKENIZER_FILES):
        if file.is_file():
            refuse_stand_in(file)


def _check_parts(path: Path, transformer_folders: Mapping[str, Path]) -> None:
    missing = [
        f"{folder / CONFIG_FILE} not found; it states the transformer's sizes. Copy it from the repository."
        for folder in transformer_folders.values()
        if not (folder / CONFIG_FILE).is_file()
    ]
    if not (path / TEXT_ENCODER_FILE).is_file():
        missing.append(
            f"{TEXT_ENCODER_FILE} not found in {path}; it is in every Wan-AI repository (11.4 GB). "
            "The same file serves all Wan models."
        )
    if not any((path / name).is_file() for name in VAE_FILES.values()):
        missing.append(
            f"No VAE found in {path}; Wan2.1 and the A14B models need Wan2.1_VAE.pth (0.5 GB), "
            "TI2V-5B needs Wan2.2_VAE.pth (2.8 GB). Copy it from the model's repository."
        )
    if not is_tokenizer_folder(path / TOKENIZER_FOLDER):
        missing.append(
            f"No tokenizer found in {path / TOKENIZER_FOLDER}; every Wan-AI repository has this folder "
            "(tokenizer.json and three more files). Copy it whole."
        )
    if missing:
        raise CheckpointError("\n".join(missing))
