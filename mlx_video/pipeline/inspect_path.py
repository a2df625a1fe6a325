"""What a path is: every file of a folder, the layout they make, what is missing and what to do with it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlx_video.checkpoint.file_kind import FileKind, recognise
from mlx_video.checkpoint.folder_layout import Layout, is_tokenizer_folder, recognise_layout
from mlx_video.errors import CheckpointError, MLXVideoError
from mlx_video.events import Event, TextResult
from mlx_video.pipeline.components import check_weights, open_model
from mlx_video.pipeline.convert_plan import plan_conversion
from mlx_video.pipeline.inspect_file import inspect_files
from mlx_video.pipeline.inspection import (
    FilePart,
    Inspection,
    Kind,
    inspection_to_json,
    inspection_to_text,
)
from mlx_video.request import ConvertRequest
from mlx_video.variants.registry import VARIANTS, find_variant

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
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".gguf")
_DEPTH = 3
_SHARD = re.compile(r"-(\d+)-of-(\d+)(?=\.)")
_BLOCK = re.compile(r"(block_\d+|non_block)(?=\.safetensors$)")
_NEEDED = ("transformer", "text_encoder", "vae")
_CONVERT = "python -m mlx_video.convert_wan"
_GENERATE = "python -m mlx_video.generate_wan"
_FLAGS = MappingProxyType(
    {"transformer": "transformer", "text_encoder": "text-encoder", "vae": "vae", "image_encoder": "clip"}
)


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
    found = inspect_path(path)
    yield TextResult(inspection_to_json(found) if as_json else inspection_to_text(found))
    if found.problems:
        count = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise CheckpointError(f"{path}: {count}, as said above, each with its cure.")


def inspect_path(path: Path) -> Inspection:
    """Find out what a file or folder is; headers are read, and nothing is written.

    Raises:
        CheckpointError: there is no such file or folder.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder. Check the path.")
    return _inspect_folder(path) if path.is_dir() else _inspect_file(path)


def _inspect_file(path: Path) -> Inspection:
    parts = inspect_files((path,), path)
    kind = _kind_of(parts, "component")
    problems = tuple(part.problem for part in parts if part.problem)
    if kind == "unknown" and not problems:
        problems = parts[0].notices
    if (shard := _SHARD.search(path.name)) and (problems or kind == "component"):
        number, total = map(int, shard.groups())
        problems = (f"{path}: is shard {number} of {total} alone. Give the folder that holds them all.",)
    found = Inspection(
        path, kind, _FORMATS.get(recognise(path), "no weight file"), parts=parts, problems=problems
    )
    found = _with_variant(found, next((part.variant for part in parts if part.variant), ""))
    return found if problems else replace(found, command=_command_for_file(path, kind, parts))


def _kind_of(parts: Sequence[FilePart], otherwise: Kind) -> Kind:
    kinds = {part.component for part in parts}
    for kind in ("adapter", "latents", "run state"):
        if kinds == {kind}:
            return kind
    return "unknown" if kinds <= {"unknown"} else otherwise


def _with_variant(found: Inspection, name: str) -> Inspection:
    variant = next((variant for variant in VARIANTS if variant.name == name), None)
    if variant is None:
        return found
    return replace(
        found,
        model=variant.title,
        variant=variant.name,
        task=variant.model_type,
        model_version=variant.model_version,
    )


def _command_for_file(path: Path, kind: Kind, parts: Sequence[FilePart]) -> str:
    name = shlex.quote(str(path))
    if kind == "adapter":
        flag = {"high_noise": "--lora-high", "low_noise": "--lora-low"}.get(parts[0].expert, "--lora")
        return f'{_GENERATE} --model-dir MODEL --prompt "..." {flag} {name} 1'
    if kind == "latents":
        return f"{_GENERATE} --model-dir MODEL --decode-only {name} --output-path video.mp4"
    if kind == "run state":
        video = shlex.quote(str(path).removesuffix(".state.safetensors"))
        return f"{_GENERATE} with the options of that run, --output-path {video} and --resume"
    if any(part.spelling.startswith("converted") for part in parts):
        return f'{_GENERATE} --model-dir {shlex.quote(str(path.parent))} --prompt "..."'
    if len(parts) > 1:
        return f"{_CONVERT} --checkpoint-dir {name}, with the components that it lacks"
    flags = " ".join(f"--{_flag_of(part)} {name}" for part in parts)
    return f"{_CONVERT} {flags} with the other components"


def _flag_of(part: FilePart) -> str:
    return part.expert.replace("_", "-") or _FLAGS[part.component]


def _inspect_folder(path: Path) -> Inspection:
    layout = recognise_layout(path)
    parts = tuple(part for files in _group_files(path) for part in inspect_files(files, path))
    tokenizer = _find_tokenizer(path, parts)
    broken = tuple(part.problem for part in parts if part.problem)
    kind: Kind = "converted model" if layout == "converted" else _kind_of(parts, "checkpoint")
    found = Inspection(path, kind, _LAYOUTS[layout], parts=parts, tokenizer=tokenizer, problems=broken)
    if kind in ("adapter", "latents", "run state"):
        return replace(found, command="" if broken else _command_for_file(path, kind, parts))
    if kind == "converted model":
        return _judge_converted(found)
    return _judge_checkpoint(found)


def _group_files(path: Path) -> list[tuple[Path, ...]]:
    """The weight files of a folder, shards of one component together."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in _walk(path, _DEPTH):
        stem = _BLOCK.sub("blocks", _SHARD.sub("", file.name))
        groups.setdefault((file.parent, stem), []).append(file)
    return [tuple(files) for files in groups.values()]


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_file() and entry.suffix.lower() in _SUFFIXES:
            yield entry
    for entry in entries:
        if entry.is_dir() and depth > 1:
            yield from _walk(entry, depth - 1)


def _find_tokenizer(path: Path, parts: Sequence[FilePart]) -> str:
    for name in ("tokenizer", "google/umt5-xxl", "."):
        if is_tokenizer_folder(path / name):
            return f"{name}/" if name != "." else "beside the weights"
    holders = [part.files[0] for part in parts if part.has_tokenizer]
    return f"in {holders[0]}" if holders else ""


def _judge_converted(found: Inspection) -> Inspection:
    """Whether generate_wan would take the folder."""
    try:
        model, config = open_model(found.path)
        found = _with_variant(found, find_variant(config).name)
        maker = "made by mlx-video" if "mlx_video" in model.config else "made by another tool"
        found = replace(found, layout=f"{found.layout} {maker}")
        check_weights(model, config)
    except MLXVideoError as error:
        return _with_error(found, error)
    missing = () if found.tokenizer else ("tokenizer: it is fetched once from google/umt5-xxl.",)
    command = f'{_GENERATE} --model-dir {shlex.quote(str(found.path))} --prompt "..."'
    return replace(found, missing=missing, command=command)


def _judge_checkpoint(found: Inspection) -> Inspection:
    """Whether convert_wan would take the folder."""
    found = _with_variant(found, next((part.variant for part in found.parts if part.variant), ""))
    try:
        with ExitStack() as opened:
            plan = plan_conversion(ConvertRequest(found.path, found.path / "converted"), opened)
    except MLXVideoError as error:
        return _with_error(found, error)
    stated: Any = plan.config.get("mlx_video", {})
    command = f"{_CONVERT} --checkpoint-dir {shlex.quote(str(found.path))} --output-dir wan_mlx_model"
    found = _with_variant(found, stated.get("variant", ""))
    return replace(found, notices=plan.notices, command=command)


def _with_error(found: Inspection, error: MLXVideoError) -> Inspection:
    """What stands in the way: missing where a component is absent, wrong where all are there."""
    lines = tuple(str(error).splitlines())
    if _is_incomplete(found):
        return replace(found, missing=lines)
    return replace(found, problems=tuple(dict.fromkeys((*lines, *found.problems))))


def _is_incomplete(found: Inspection) -> bool:
    kinds = {part.component for part in found.parts}
    needs_image_encoder = any(part.has_image_branch for part in found.parts) and "image_encoder" not in kinds
    known = bool(kinds & set(_FLAGS))
    return known and (needs_image_encoder or not found.tokenizer or not set(_NEEDED) <= kinds)
