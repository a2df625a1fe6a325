"""The folder of FastVideo's MLX models: a quantized transformer, its manifest, the rest as in Diffusers.

Source: hao-ai-lab/FastVideo fastvideo/mlx_runtime/checkpoint.py; huggingface.co/FastVideo/FastMetal-14B-QAD.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_video.errors import CheckpointError, ConfigError, MissingPartError
from mlx_video.layouts.components import list_parts
from mlx_video.layouts.folder_layout import (
    FASTVIDEO_EMA,
    FASTVIDEO_MANIFEST,
    FASTVIDEO_WEIGHTS,
    find_fastvideo_folder,
    find_tokenizer,
    list_folder,
    read_json_object,
)

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FastVideoFolder:
    """The files of such a folder.

    Attributes:
        transformer: the quantized transformer.
        manifest: what lies beside it.
        parts: "text_encoder", "vae" and "tokenizer" → their folders, as far as they are there.
        other: another transformer of the same model that lies there too; None without.
    """

    transformer: Path
    manifest: Mapping[str, Any]
    parts: Mapping[str, Path]
    other: Path | None = None


def open_fastvideo_folder(path: Path) -> FastVideoFolder:
    """Find the files of FastVideo's folder.

    Args:
        path: the folder, or that of its averaged weights, `ema`, whose other parts lie one level higher.

    Raises:
        CheckpointError: the weights are missing, or the manifest is damaged.
        ConfigError: the manifest is of a form that this version does not read.
    """
    found = find_fastvideo_folder(list_folder(path))
    if found is None:
        raise MissingPartError(f"{path}: {FASTVIDEO_WEIGHTS} not found. Copy the folder whole.")
    place = path / found
    for name, other in ((FASTVIDEO_WEIGHTS, FASTVIDEO_MANIFEST), (FASTVIDEO_MANIFEST, FASTVIDEO_WEIGHTS)):
        if not (place / name).is_file():
            raise MissingPartError(f"{place}: {name} not found beside {other}. Copy the folder whole.")
    manifest = read_json_object(place / FASTVIDEO_MANIFEST)
    _check_manifest(place / FASTVIDEO_MANIFEST, manifest)
    root = path.parent if path.name == FASTVIDEO_EMA else path
    averaged = path / FASTVIDEO_EMA
    has_other = place == path and find_fastvideo_folder(list_folder(averaged)) is not None
    parts = dict(_find_parts(path, root))
    return FastVideoFolder(place / FASTVIDEO_WEIGHTS, manifest, parts, averaged if has_other else None)


def _find_parts(path: Path, root: Path) -> Iterator[tuple[str, Path]]:
    for row in list_parts():
        place = next((p / row.folder for p in (path, root) if row.folder and (p / row.folder).is_dir()), None)
        if place and row.is_needed:
            yield row.name, place
    if tokenizer := find_tokenizer(path) or find_tokenizer(root):
        yield "tokenizer", tokenizer


def _check_manifest(file: Path, manifest: Mapping[str, Any]) -> None:
    version, packing = manifest.get("format_version"), manifest.get("quantization")
    if version != _FORMAT:
        raise ConfigError(
            f"{file}: format_version is {version!r}, this version reads {_FORMAT}. Update mlx-video, or "
            "export the model again."
        )
    mode = packing.get("mode") if isinstance(packing, dict) else None
    if packing is not None and mode != "affine":
        raise ConfigError(
            f"{file}: the weights are quantized as {mode!r}, this version reads 'affine'. "
            "Use the INT8 export."
        )
    if not isinstance(manifest.get("config"), dict) or not isinstance(manifest.get("num_blocks"), int):
        raise CheckpointError(f"{file}: lacks config or num_blocks. Fetch the file again.")
