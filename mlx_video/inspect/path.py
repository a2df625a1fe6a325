"""What a path is: every file of a folder, the layout they make, what is missing and what to do with it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlx_video.addresses import AddressError, find_page, local_path
from mlx_video.convert.plan import plan_conversion
from mlx_video.errors import CheckpointError, MissingPartError, MLXVideoError
from mlx_video.events import Event, TextResult
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.formats.file_kind import FileKind, recognise
from mlx_video.hub.fetch import TOKENIZER_REPOSITORY, is_repository
from mlx_video.inspect.command import convert_file, convert_folder, generate_with, use_result
from mlx_video.inspect.file import SPELLINGS, inspect_files
from mlx_video.inspect.inspection import (
    FilePart,
    Inspection,
    Kind,
    inspection_to_json,
    inspection_to_text,
)
from mlx_video.layouts.components import list_components
from mlx_video.layouts.folder_layout import Layout, find_tokenizer, recognise_layout
from mlx_video.layouts.loose_files import is_weight_file, walk_folders
from mlx_video.layouts.weight_sets import SHARD
from mlx_video.loading.components import check_weights, open_model
from mlx_video.loading.found_files import TREE_FOLDERS
from mlx_video.loading.vae_halves import check_vae_encoder
from mlx_video.request import ConvertRequest
from mlx_video.variants.registry import find_by_name, find_variant

_LAYOUTS: Mapping[Layout, str] = MappingProxyType(
    {
        "converted": "MLX folder",
        "fastvideo": "FastVideo MLX folder",
        "diffusers": "Diffusers folder",
        "original_dual": "original Wan folder with two experts",
        "original": "original Wan folder",
        "lightx2v": "LightX2V folder of single blocks",
        "comfy": "ComfyUI folder",
        "unknown": "loose files",
    }
)
_FORMATS: Mapping[FileKind, str] = MappingProxyType(
    {"safetensors": "safetensors file", "zip": "torch archive", "gguf": "GGUF file"}
)
_RESULTS: tuple[Kind, ...] = ("adapter", "latents", "run state")
_DEPTH = 3
_PLACES_OF_WAN = (*TREE_FOLDERS, "loras")
_BLOCK = re.compile(r"(block_\d+|non_block)(?=\.safetensors$)")
_ADVICE_FOR_HUB = "The Hub is not inspected: download the repository first, or convert it by its name:"
_SENTENCE_END = re.compile(r"\n(?! )")  # lines further in belong to the one before
_RESUME_NOTICE = "A run goes on only with the options that it began with; add the others to the command."


def report(path: Path, *, as_json: bool = False) -> Iterator[Event]:
    """Say what a path is.

    Args:
        path: a file or a folder.
        as_json: for programs.

    Yields:
        One text.

    Raises:
        CheckpointError: the path is absent; or, after the text, something in it is damaged or unknown.
    """
    path = _local_path(path)
    found = inspect_path(path)
    yield TextResult(inspection_to_json(found) if as_json else inspection_to_text(found))
    if found.problems:
        count = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise CheckpointError(f"{path}: {count}, as said above, each with its cure.")


def _local_path(path: Path) -> Path:
    """The path of what is here; an address is one, or is told what to do instead."""
    try:
        page = find_page(path)
        if page is None:
            return local_path(path)
    except AddressError as error:
        raise CheckpointError(str(error)) from error
    revision = f" --revision {shlex.quote(page.revision)}" if page.revision else ""
    raise CheckpointError(
        f"{page}: is on the Hub. {_ADVICE_FOR_HUB} {convert_folder(Path(str(page)))}{revision}"
    )


def inspect_path(path: Path) -> Inspection:
    """Find out what a file or folder is; headers and a few rows are read, and nothing is written.

    Raises:
        CheckpointError: there is no such file or folder.
    """
    if not path.exists():
        reason = explain_missing(path, f"no such file or folder. {_advice_for_absent(path)}")
        raise CheckpointError(f"{path}: {reason}")
    return _inspect_folder(path) if path.is_dir() else _inspect_file(path)


def _advice_for_absent(path: Path) -> str:
    repository = Path(*path.parts[:2])
    if not is_repository(repository):
        return "Check the path."
    return f"Check the path. {_ADVICE_FOR_HUB} {convert_folder(repository)}"


def _inspect_file(path: Path) -> Inspection:
    parts = inspect_files((path,), path)
    kind = _kind_of(parts, "component")
    problems = tuple(part.problem for part in parts if part.problem)
    if kind == "unknown" and not problems:
        problems = parts[0].notices
    is_read = not any(part.component == "unknown" and part.problem for part in parts)
    if is_read and (shard := SHARD.search(path.name)) and (problems or kind == "component"):
        number, total = map(int, shard.groups())
        problems = (f"{path}: is shard {number} of {total} alone. Give the folder that holds them all.",)
    layout = _FORMATS.get(recognise(path), "no weight file")
    found = Inspection(path, kind, layout, parts=parts, tokenizer=_find_embedded(parts), problems=problems)
    found = _with_variant(found, next((part.variant for part in parts if part.variant), ""))
    if problems:
        return found
    if kind in _RESULTS:
        return _with_use(found)
    if any(part.spelling.startswith(SPELLINGS["mlx"]) for part in parts):
        is_whole = recognise_layout(path.parent) in ("converted", "fastvideo")
        return replace(found, command=_inspect_folder(path.parent).command if is_whole else "")
    return replace(found, command=convert_file(path, parts))


def _with_use(found: Inspection) -> Inspection:
    """The command for adapters, latents and run states."""
    notices = (_RESUME_NOTICE,) if found.kind == "run state" else ()
    return replace(found, notices=notices, command=use_result(found.path, found.kind, found.parts))


def _kind_of(parts: Sequence[FilePart], otherwise: Kind) -> Kind:
    kinds = {part.component for part in parts}
    for kind in _RESULTS:
        if kinds == {kind}:
            return kind
    return "unknown" if kinds <= {"unknown"} else otherwise


def _with_variant(found: Inspection, name: str) -> Inspection:
    variant = find_by_name(name)
    if variant is None:
        return found
    return replace(
        found,
        model=variant.title,
        variant=variant.name,
        task=variant.model_type,
        model_version=variant.model_version,
    )


def _inspect_folder(path: Path) -> Inspection:
    layout = recognise_layout(path)
    parts = _drop_joined(part for files in _group_files(path) for part in inspect_files(files, path))
    tokenizer = _find_tokenizer(path, parts)
    if layout == "comfy":
        parts = tuple(map(_excuse, parts))
    broken = tuple(part.problem for part in parts if part.problem)
    is_model = layout in ("converted", "fastvideo")
    kind: Kind = "converted model" if is_model else _kind_of(parts, "checkpoint")
    found = Inspection(path, kind, _LAYOUTS[layout], parts=parts, tokenizer=tokenizer, problems=broken)
    if kind in _RESULTS:
        return found if broken else _with_use(found)
    if kind == "converted model":
        return _judge_converted(found)
    return _judge_checkpoint(found)


def _excuse(part: FilePart) -> FilePart:
    """Let an unreadable file pass where ComfyUI keeps nothing of Wan's: upscalers, detectors and the like."""
    place, *below = Path(part.files[0]).parts
    if part.component != "unknown" or not part.problem or not below or place in _PLACES_OF_WAN:
        return part
    return replace(part, problem="", notices=(*part.notices, part.problem))


def _group_files(path: Path) -> list[tuple[Path, ...]]:
    """The weight files of a folder, shards of one component together."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for folder in walk_folders(path, set(), depth=_DEPTH):
        for file in filter(is_weight_file, sorted(folder.iterdir())):
            stem = _BLOCK.sub("blocks", SHARD.sub("", file.name))
            groups.setdefault((folder, stem), []).append(file)
    return [tuple(files) for files in groups.values()]


def _drop_joined(parts: Iterable[FilePart]) -> tuple[FilePart, ...]:
    """The parts without files that were read together with another, for a tensor that it left out."""
    kept = tuple(parts)
    joined = {name for part in kept if part.component != "unknown" for name in part.files[1:]}
    return tuple(part for part in kept if part.component != "unknown" or part.files[0] not in joined)


def _find_tokenizer(path: Path, parts: Sequence[FilePart]) -> str:
    place = find_tokenizer(path)
    if place is None:
        return _find_embedded(parts)
    return "beside the weights" if place == path else f"{place.relative_to(path)}/"


def _find_embedded(parts: Sequence[FilePart]) -> str:
    holders = [part.files[0] for part in parts if part.has_tokenizer]
    return f"in {holders[0]}" if holders else ""


def _judge_converted(found: Inspection) -> Inspection:
    """Whether generate_wan would take the folder."""
    try:
        model, config = open_model(found.path)
        variant = find_variant(config)
        found = _with_variant(found, variant.name)
        if recognise_layout(found.path) == "converted":
            maker = "made by mlx-video" if "mlx_video" in model.config else "made by another tool"
            found = replace(found, layout=f"{found.layout} {maker}")
        if found.problems:
            return found
        check_weights(model, config)
        if "image" in variant.inputs.required:
            check_vae_encoder(model, config)
    except MLXVideoError as error:
        return _with_error(found, error)
    command = generate_with(found.path, variant.inputs)
    return replace(found, missing=_describe_lack(found.tokenizer), command=command)


def _judge_checkpoint(found: Inspection) -> Inspection:
    """Whether convert_wan would take the folder."""
    found = _with_variant(found, next((part.variant for part in found.parts if part.variant), ""))
    try:
        with ExitStack() as opened:
            plan = plan_conversion(ConvertRequest(found.path, found.path / "converted"), opened)
    except MLXVideoError as error:
        return _with_error(found, error)
    stated: Any = plan.config.get("mlx_video", {})
    found = _with_variant(found, stated.get("variant", ""))
    tokenizer = found.tokenizer if plan.has_tokenizer else ""
    found = replace(found, tokenizer=tokenizer, missing=_describe_lack(tokenizer))
    return replace(found, notices=plan.notices, command=convert_folder(found.path))


def _describe_lack(tokenizer: str) -> tuple[str, ...]:
    return () if tokenizer else (f"tokenizer: it is fetched once from {TOKENIZER_REPOSITORY}.",)


def _with_error(found: Inspection, error: MLXVideoError) -> Inspection:
    """What stands in the way: missing where a model lacks a part, wrong in every other case."""
    lines = tuple(_SENTENCE_END.split(str(error)))
    is_model = any(part.component in {row.name for row in list_components()} for part in found.parts)
    if is_model and isinstance(error, MissingPartError):
        return replace(found, missing=lines)
    return replace(found, problems=tuple(dict.fromkeys((*lines, *found.problems))))
