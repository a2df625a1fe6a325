"""Checkpoint folders as Wan publishes them: which file is which component."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mlx_video.errors import MissingPartError
from mlx_video.files.file_bytes import refuse_dangling
from mlx_video.files.unusable_paths import real_path
from mlx_video.formats.file_kind import refuse_stand_in
from mlx_video.layouts.checkpoint_files import CheckpointFiles, PartName
from mlx_video.layouts.components import VAE, VAE_FILES, Component, list_parts
from mlx_video.layouts.folder_layout import (
    CONFIG_FILE,
    EXPERT_FOLDERS,
    ORIGINAL_TOKENIZER,
    SPLIT_REST,
    TOKENIZER_FILES,
    has_original_weights,
    is_tokenizer_folder,
    list_folder,
    read_json_object,
)
from mlx_video.layouts.loose_files import is_weight_file
from mlx_video.layouts.shards import FoundWeights, find_weights, split_files


def open_original_folder(path: Path, given: Collection[PartName] = ()) -> CheckpointFiles:
    """Find every component of an original Wan checkpoint.

    Args:
        path: a folder with one transformer (Wan2.1, TI2V-5B) or two (A14B).
        given: parts that the user has elsewhere, so that they may be absent here.

    Returns:
        All files of the checkpoint; shards are complete and agree with their index.

    Raises:
        CheckpointError: the folder lacks a component, or is one of two experts.
    """
    folders = {name: f for name, f in _transformer_folders(path, given).items() if name not in given}
    transformers = {name: _find_transformer(folder) for name, folder in folders.items()}
    _check_parts(path, folders, given)
    tokenizer = path / ORIGINAL_TOKENIZER
    check_tokenizer(tokenizer)
    return CheckpointFiles(
        path=path,
        transformers={name: found.paths for name, found in transformers.items()},
        transformer_configs={name: read_json_object(f / CONFIG_FILE) for name, f in folders.items()},
        parts={row.name: files for row in _single_parts() if (files := _files_of(path, row))},
        vaes={key: (path / name,) for key, name in VAE_FILES.items() if (path / name).is_file()},
        tokenizer=tokenizer if is_tokenizer_folder(tokenizer) else None,
        notices=tuple(text for found in transformers.values() for text in found.notices),
    )


def _single_parts() -> tuple[Component, ...]:
    """The components of which no more than one lies in a folder."""
    return tuple(row for row in list_parts() if row is not VAE)


def _files_of(path: Path, row: Component) -> tuple[Path, ...]:
    return tuple(path / name for name in row.original_files if (path / name).is_file())


def has_named_transformers(path: Path, given: Collection[PartName] = ()) -> bool:
    """Whether a folder's transformers have the original names, so that nothing else there is one.

    Args:
        path: a folder in the original layout, whose names need not be the original ones.
        given: parts that the user has elsewhere.

    Returns:
        True also where a file or the folder of an expert is absent, so that it is asked for by its name.
    """
    experts = {name: path / folder for name, folder in EXPERT_FOLDERS.items()}
    if not any(folder.is_dir() for folder in experts.values()):
        return _is_named(path)
    folders = [folder for name, folder in experts.items() if name not in given]
    return all(
        _is_named(folder) or not (folder.is_dir() and any(map(is_weight_file, folder.iterdir())))
        for folder in folders
    )


def _is_named(folder: Path) -> bool:
    return has_original_weights(list_folder(folder)) or (folder / SPLIT_REST).exists()


def _find_transformer(folder: Path) -> FoundWeights:
    split = split_files(folder)
    return FoundWeights(split) if split else find_weights(folder)


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer folder whose files are stand-ins.

    Raises:
        CheckpointError: a file is a Git LFS pointer, an HTML page, a dangling link, or empty.
    """
    files = [folder / name for name in TOKENIZER_FILES]
    refuse_dangling(*files)
    for file in files:
        if file.is_file():
            refuse_stand_in(file)


def _transformer_folders(path: Path, given: Collection[str]) -> dict[str, Path]:
    folders = {expert: path / name for expert, name in EXPERT_FOLDERS.items()}
    refuse_dangling(*(folder for name, folder in folders.items() if name not in given))
    if not any(folder.is_dir() for folder in folders.values()):
        if real_path(path).name in EXPERT_FOLDERS.values():
            raise MissingPartError(f"{path}: is one of two experts. Give the folder above it.")
        return {"model": path}
    for name, folder in folders.items():
        if not folder.is_dir() and name not in given:
            other = next(f.name for f in folders.values() if f != folder)
            raise MissingPartError(
                f"{path}: {folder.name}/ not found beside {other}/. A Wan2.2 A14B model needs both; fetch it."
            )
    return folders


def _check_parts(path: Path, transformer_folders: Mapping[str, Path], given: Collection[str]) -> None:
    refuse_dangling(
        *(folder / CONFIG_FILE for folder in transformer_folders.values()),
        *(path / name for row in list_parts() if row.name not in given for name in row.original_files),
    )
    missing = [
        f"{folder / CONFIG_FILE} not found; it states the transformer's sizes. Copy it from the repository."
        for folder in transformer_folders.values()
        if not (folder / CONFIG_FILE).is_file()
    ]
    missing += [
        f"{row.original_files[0]} not found in {path}; {row.advice}"
        for row in _single_parts()
        if row.is_needed and row.name not in given and not _files_of(path, row)
    ]
    if "vae" not in given and not any((path / name).is_file() for name in VAE_FILES.values()):
        missing.append(
            f"No VAE found in {path}; Wan2.1 and the A14B models need Wan2.1_VAE.pth (0.5 GB), "
            "TI2V-5B needs Wan2.2_VAE.pth (2.8 GB). Copy it from the model's repository."
        )
    if missing:
        raise MissingPartError("\n".join(missing))
