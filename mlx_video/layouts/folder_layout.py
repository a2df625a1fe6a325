"""Which kind of checkpoint a folder is, told by file names and small JSON files alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mlx_video.errors import CheckpointError
from mlx_video.files.unusable_paths import is_dangling
from mlx_video.formats.file_kind import refuse_stand_in
from mlx_video.formats.safetensors_header import read_header
from mlx_video.layouts.components import ORIGINAL_STEM, ROLES

Layout = Literal[
    "converted", "fastvideo", "diffusers", "original_dual", "lightx2v", "original", "comfy", "unknown"
]

CONFIG_FILE = "config.json"
TOKENIZER_MODEL = "spiece.model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", TOKENIZER_MODEL)

TRANSFORMER_FILES = {role.name: role.file_name for role in ROLES}
TOKENIZER_FOLDER = "tokenizer"

EXPERT_FOLDERS = {role.name: role.original_folder for role in ROLES if role.original_folder}
ORIGINAL_INDEX = f"{ORIGINAL_STEM}.safetensors.index.json"

# Source: hao-ai-lab/FastVideo fastvideo/mlx_runtime/checkpoint.py, MANIFEST_FILENAME, and what it describes.
FASTVIDEO_MANIFEST = "mlx_dit.json"
FASTVIDEO_WEIGHTS = "mlx_dit.safetensors"

_CONVERTED_KEYS = ("t5_vocab_size", "vae_z_dim")
_CONVERTED_TENSOR = "patch_embedding_proj.weight"
_DIFFUSERS_CLASSES = ("WanTransformer3DModel", "WanVACETransformer3DModel")
_ORIGINAL_CLASSES = ("WanModel", "VaceWanModel")
_COMFY_FOLDERS = ("diffusion_models", "unet", "text_encoders")


def recognise_layout(folder: Path) -> Layout:
    """Tell what a folder holds; the first rule that fits wins.

    Args:
        folder: an existing folder.

    Returns:
        "original_dual" also for a folder with only one of the two experts.
    """
    return next((layout for layout, fits in _RULES if fits(folder)), "unknown")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose outermost value is an object.

    Raises:
        CheckpointError: the file is missing, is no JSON object, or is a stand-in such as a Git LFS pointer.
    """
    refuse_stand_in(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no valid JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a JSON {type(content).__name__}, an object is expected. Fetch it again."
        )
    return content


def original_weight_files(folder: Path) -> list[Path]:
    """The transformer files of an original folder, sorted; other weights lying there are not among them.

    A dangling link counts, so that whoever opens it says what is wrong.
    """
    found = folder.glob(f"{ORIGINAL_STEM}*.safetensors")
    return sorted(path for path in found if path.is_file() or is_dangling(path))


def find_fastvideo_folder(folder: Path) -> Path | None:
    """Where FastVideo's quantized transformer lies: in the folder itself, or else in `ema`; None without one.

    Its manifest alone, or its weights alone, count too, so that whoever opens them names what is missing.
    """
    files = (FASTVIDEO_MANIFEST, FASTVIDEO_WEIGHTS)
    found = (place for name in files for place in (folder, folder / "ema") if (place / name).is_file())
    return next(found, None)


def is_tokenizer_folder(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in one of the two forms it comes in."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))


def _config_or_empty(folder: Path) -> dict[str, Any]:
    try:
        return read_json_object(folder / CONFIG_FILE)
    except CheckpointError:
        return {}


def _is_converted(folder: Path) -> bool:
    config = _config_or_empty(folder)
    return any(key in config for key in _CONVERTED_KEYS) or any(
        _holds_converted_tensor(folder / name) for name in TRANSFORMER_FILES.values()
    )


def _holds_converted_tensor(path: Path) -> bool:
    try:
        return path.is_file() and _CONVERTED_TENSOR in read_header(path).infos
    except CheckpointError:
        return False


def _is_diffusers(folder: Path) -> bool:
    if (folder / "model_index.json").is_file():
        return True
    configs = (_config_or_empty(folder), _config_or_empty(folder / "transformer"))
    return any(config.get("_class_name") in _DIFFUSERS_CLASSES for config in configs)


def _is_original(folder: Path) -> bool:
    if original_weight_files(folder) or (folder / ORIGINAL_INDEX).is_file():
        return True
    return _config_or_empty(folder).get("_class_name") in _ORIGINAL_CLASSES


def _has_any_folder(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_dir() for name in names)


_RULES: tuple[tuple[Layout, Callable[[Path], bool]], ...] = (
    ("converted", _is_converted),
    ("fastvideo", lambda folder: find_fastvideo_folder(folder) is not None),
    ("diffusers", _is_diffusers),
    ("original_dual", lambda folder: _has_any_folder(folder, tuple(EXPERT_FOLDERS.values()))),
    ("lightx2v", lambda folder: (folder / "non_block.safetensors").is_file()),
    ("original", _is_original),
    ("comfy", lambda folder: _has_any_folder(folder, _COMFY_FOLDERS)),
)
