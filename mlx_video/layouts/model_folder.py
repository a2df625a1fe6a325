"""The folder of a converted model: every file of it, found and present."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlx_video.errors import CheckpointError, ConfigError, MissingPartError
from mlx_video.files.file_bytes import refuse_dangling
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.layouts.components import Component, list_parts
from mlx_video.layouts.folder_layout import (
    CONFIG_FILE,
    TRANSFORMER_FILES,
    Layout,
    find_tokenizer,
    read_json_object,
    recognise_layout,
)
from mlx_video.layouts.staging import find_unfinished, is_unfinished_name

_CONVERT = "python -m mlx_video.convert_wan --checkpoint-dir"
_CONVERTIBLE: Mapping[Layout, str] = {
    "original": "an original",
    "original_dual": "an original",
    "diffusers": "a Diffusers",
    "comfy": "a ComfyUI",
    "lightx2v": "a LightX2V",
}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The files of a converted model, all present.

    Attributes:
        path: the folder.
        config: config.json as it is written; empty where the folder has none, as some of other tools do.
        transformers: "model", or "low_noise" and "high_noise" → the file of that transformer.
        parts: name of every other component that the model has → its file; where the user or FastVideo has
            it, also a checkpoint's file or folder.
        second_files: the same names → another file of the component, which a few foreign folders have.
        tokenizer: the folder that holds the tokenizer's files; None where the model has none.
        notices: what the user should know of a folder that another tool made.
    """

    path: Path
    config: dict[str, Any]
    transformers: Mapping[str, Path]
    parts: Mapping[str, Path]
    tokenizer: Path | None
    second_files: Mapping[str, Path] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def text_encoder(self) -> Path:
        """UMT5."""
        return self.parts["text_encoder"]

    @property
    def vae(self) -> Path:
        """Encoder and decoder, or in some foreign folders the decoder alone."""
        return self.parts["vae"]

    @property
    def vae_encoder(self) -> Path | None:
        """A second file with the encoder, which a few foreign folders have."""
        return self.second_files.get("vae")

    def with_parts(self, given: Mapping[str, Path]) -> ModelFolder:
        """The model with a tokenizer or other components in place of its own."""
        others = {name: path for name, path in given.items() if name != "tokenizer"}
        return replace(self, parts={**self.parts, **others}, tokenizer=given.get("tokenizer", self.tokenizer))


def open_model_folder(path: Path, given: Collection[str] = ()) -> ModelFolder:
    """Find every component of a converted model.

    Args:
        path: a folder made by convert_wan, ours or another's.
        given: "text_encoder" or "vae" where the user has them elsewhere, so that they may be absent here.

    Returns:
        All files of the model; no weight is read.

    Raises:
        CheckpointError: the folder is missing, unfinished, not converted, or lacks a file.
        ConfigError: config.json is no JSON object.
    """
    _check_is_converted(path)
    config = _read_config(path)
    transformers = {name: path / TRANSFORMER_FILES[name] for name in _transformer_names(path, config)}
    files = {row.name: _find_part(path, row) for row in list_parts()}
    own = [row for row in list_parts() if row.name not in given]
    _check_present(path, (*transformers.values(), *(files[row.name] for row in own if row.is_needed)))
    second_files = {row.name: path / row.second_file for row in list_parts() if row.second_file}
    refuse_dangling(*(files[row.name] for row in own), *second_files.values())
    return ModelFolder(
        path=path,
        config=config,
        transformers=transformers,
        parts={name: file for name, file in files.items() if file.is_file()},
        tokenizer=find_tokenizer(path),
        second_files={name: file for name, file in second_files.items() if file.is_file()},
    )


def _check_is_converted(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(
            f"{path}: {explain_missing(path, f'no such folder. {_advice_for_absent(path)}')}"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file. Give the folder that convert_wan made.")
    if is_unfinished_name(path):
        raise CheckpointError(f"{path}: is an unfinished conversion. Run the conversion again.")
    layout = recognise_layout(path)
    if layout in _CONVERTIBLE:
        raise CheckpointError(
            f"{path}: is {_CONVERTIBLE[layout]} checkpoint. Convert it first: {_CONVERT} {path}"
        )
    if layout != "converted":
        raise CheckpointError(
            f"{path}: is no converted model, {TRANSFORMER_FILES['model']} and {CONFIG_FILE} were expected. "
            f"Give a folder made by: {_CONVERT} <checkpoint>"
        )


def _advice_for_absent(path: Path) -> str:
    if find_unfinished(path):
        return "Its conversion was interrupted; run it again."
    return f"Check the path, or make it with: {_CONVERT} <checkpoint> --output-dir {path}"


def _read_config(path: Path) -> dict[str, Any]:
    refuse_dangling(path / CONFIG_FILE)
    if not (path / CONFIG_FILE).exists():
        return {}
    try:
        return read_json_object(path / CONFIG_FILE)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def _find_part(path: Path, row: Component) -> Path:
    """A component's file; where another tool left two, the one that every tool knows."""
    files = [path / name for name in row.names_in_converted]
    return next(filter(Path.is_file, files), files[0])


def _transformer_names(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    experts = tuple(name for name in TRANSFORMER_FILES if name != "model")
    has_experts = any((path / TRANSFORMER_FILES[name]).is_file() for name in experts)
    has_model = (path / TRANSFORMER_FILES["model"]).is_file()
    is_dual = config.get("dual_model", has_experts) if has_model == has_experts else has_experts
    return experts if is_dual else ("model",)


def _check_present(path: Path, files: tuple[Path, ...]) -> None:
    refuse_dangling(*files)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise MissingPartError(
            f"{path}: {', '.join(missing)} not found, the folder is incomplete. Copy it whole."
        )
