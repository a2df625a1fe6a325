"""Which kind of checkpoint a folder or a repository is, told by file names and small JSON files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mlx_video.errors import CheckpointError
from mlx_video.files.file_bytes import read_text_file
from mlx_video.formats.file_kind import refuse_stand_in
from mlx_video.formats.safetensors_header import read_header
from mlx_video.layouts.components import EXPERT_ROLES, ORIGINAL_STEM, ROLES, list_parts
from mlx_video.layouts.listing import Listing
from mlx_video.layouts.weight_sets import find_ending, index_name

Layout = Literal[
    "converted", "fastvideo", "diffusers", "original_dual", "lightx2v", "original", "comfy", "unknown"
]

CONFIG_FILE = "config.json"
TOKENIZER_MODEL = "spiece.model"
# Either holds a whole tokenizer.
TOKENIZER_FORMS = ("tokenizer.json", TOKENIZER_MODEL)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", TOKENIZER_MODEL)

TRANSFORMER_FILES = {role.name: role.file_name for role in ROLES}
TOKENIZER_FOLDER = "tokenizer"  # also Diffusers'
ORIGINAL_TOKENIZER = "google/umt5-xxl"
MODEL_INDEX = "model_index.json"
# Folder of the transformer where a model has one; the second name is LongCat-Video's.
DIFFUSERS_TRANSFORMERS = ("transformer", "dit")
EXPERT_FOLDERS = {role.name: role.original_folder for role in EXPERT_ROLES}
# What LightX2V calls the tensors of no block, where each block has a file of its own.
SPLIT_REST = "non_block.safetensors"

# Source: hao-ai-lab/FastVideo fastvideo/mlx_runtime/checkpoint.py, MANIFEST_FILENAME, and what it describes.
FASTVIDEO_MANIFEST = "mlx_dit.json"
FASTVIDEO_WEIGHTS = "mlx_dit.safetensors"
FASTVIDEO_FILES = (FASTVIDEO_MANIFEST, FASTVIDEO_WEIGHTS)
FASTVIDEO_EMA = "ema"  # averaged weights

_CONVERTED_KEYS = ("t5_vocab_size", "vae_z_dim")
_CONVERTED_TENSOR = "patch_embedding_proj.weight"
_DIFFUSERS_CLASSES = (
    "WanTransformer3DModel",
    "WanVACETransformer3DModel",
    "WanAnimateTransformer3DModel",
    "LongCatVideoTransformer3DModel",
)
_ORIGINAL_CLASSES = ("WanModel", "VaceWanModel", "WanAnimateModel")
_COMFY_FOLDERS = ("diffusion_models", "unet", "text_encoders")


def recognise_layout(folder: Path) -> Layout:
    """Tell what an existing folder holds, as :func:`recognise_listing` does."""
    return recognise_listing(list_folder(folder))


def recognise_listing(listing: Listing) -> Layout:
    """Tell what a folder or a repository holds; the first rule that fits wins.

    Returns:
        "original_dual" also where there is only one of the two experts.
    """
    return next((layout for layout, fits in _RULES if fits(listing)), "unknown")


def list_folder(folder: Path) -> Listing:
    """What lies in a folder, and in those folders in it that tell its layout.

    A dangling link counts, so that whoever opens it says what is wrong.
    """
    places = (folder, *(folder / name for name in DIFFUSERS_TRANSFORMERS), folder / FASTVIDEO_EMA)
    paths = [path for place in places for path in place.glob("*")]
    names = (f"{path.relative_to(folder).as_posix()}{'/' * path.is_dir()}" for path in paths)
    return Listing(
        frozenset(names),
        lambda name: _or_empty(read_json_object, folder / name),
        lambda name: _or_empty(lambda path: read_header(path).infos, folder / name),
        has_names_alone=False,
    )


def _or_empty(read: Callable[[Path], Mapping[str, Any]], path: Path) -> Mapping[str, Any]:
    try:
        return read(path)
    except CheckpointError:
        return {}


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose outermost value is an object.

    Raises:
        CheckpointError: the file is missing, is no JSON object, or is a stand-in such as a Git LFS pointer.
    """
    refuse_stand_in(path)
    try:
        content = json.loads(read_text_file(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no valid JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a JSON {type(content).__name__}, an object is expected. Fetch it again."
        )
    return content


def has_original_weights(listing: Listing) -> bool:
    """Whether a transformer lies there under the original names, if only by its index."""
    names = listing.names_in("")
    return index_name(ORIGINAL_STEM) in names or any(find_ending(n, ORIGINAL_STEM) is not None for n in names)


def find_fastvideo_folder(listing: Listing) -> str | None:
    """Where FastVideo's quantized transformer lies: "" for no folder, or else "ema"; None without one.

    Its manifest alone, or its weights alone, count too, so that whoever opens them names what is missing.
    """
    places = ((folder, name) for name in FASTVIDEO_FILES for folder in ("", FASTVIDEO_EMA))
    return next((folder for folder, name in places if listing.choose(folder, [name])), None)


def is_tokenizer_folder(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in one of the two forms it comes in."""
    return any((folder / name).is_file() for name in TOKENIZER_FORMS)


def find_tokenizer(path: Path) -> Path | None:
    """The tokenizer's folder in a checkpoint of any layout, which may be the checkpoint's own."""
    places = (path / ORIGINAL_TOKENIZER, path / TOKENIZER_FOLDER, path)
    return next((place for place in places if is_tokenizer_folder(place)), None)


def _is_converted(listing: Listing) -> bool:
    if listing.has_names_alone:
        # A transformer's name is that of any model.
        names = (name for row in list_parts() if row.is_needed for name in row.names_in_converted)
        return bool(listing.choose("", names))
    config, transformers = listing.read_json(CONFIG_FILE), listing.choose("", TRANSFORMER_FILES.values())
    return any(key in config for key in _CONVERTED_KEYS) or any(
        _CONVERTED_TENSOR in listing.read_tensors(name) for name in transformers
    )


def _is_diffusers(listing: Listing) -> bool:
    has_folder = any(map(listing.has_folder, DIFFUSERS_TRANSFORMERS))
    is_named = MODEL_INDEX in listing.files or (listing.has_names_alone and has_folder)
    return is_named or _has_class(
        listing, _DIFFUSERS_CLASSES, "", *(f"{name}/" for name in DIFFUSERS_TRANSFORMERS)
    )


def find_transformer_folder(listing: Listing) -> str:
    """Name of the folder of the one transformer of a folder in Diffusers' layout."""
    first, *_ = DIFFUSERS_TRANSFORMERS
    return next(filter(listing.has_folder, DIFFUSERS_TRANSFORMERS), first)


def _has_class(listing: Listing, classes: tuple[str, ...], *places: str) -> bool:
    if listing.has_names_alone:
        return False
    return any(listing.read_json(f"{place}{CONFIG_FILE}").get("_class_name") in classes for place in places)


def _has_folder(*names: str) -> Callable[[Listing], bool]:
    return lambda listing: any(map(listing.has_folder, names))


_RULES: tuple[tuple[Layout, Callable[[Listing], bool]], ...] = (
    ("converted", _is_converted),
    ("fastvideo", lambda folder: find_fastvideo_folder(folder) is not None),
    ("diffusers", _is_diffusers),
    ("original_dual", _has_folder(*EXPERT_FOLDERS.values())),
    ("lightx2v", lambda folder: SPLIT_REST in folder.files),
    ("original", lambda folder: has_original_weights(folder) or _has_class(folder, _ORIGINAL_CLASSES, "")),
    ("comfy", _has_folder(*_COMFY_FOLDERS)),
)
