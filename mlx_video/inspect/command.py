"""Which command takes what was inspected; words in capitals stand for what the user fills in."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mlx_video.inspect.inspection import FilePart, Kind
from mlx_video.layouts.components import ROLES, TransformerRole, find_component, find_role, list_components
from mlx_video.variants.variant import Inputs

_CONVERT = "python -m mlx_video.convert_wan"
_GENERATE = "python -m mlx_video.generate_wan"
_STATE_ENDING = ".state.safetensors"


def convert_folder(path: Path) -> str:
    """Convert a whole checkpoint."""
    return f"{_CONVERT} --checkpoint-dir {_quote(path)} --output-dir wan_mlx_model"


def convert_file(path: Path, parts: Sequence[FilePart]) -> str:
    """Convert a file of one component or several, beside the components that it lacks.

    Args:
        path: the file.
        parts: what it holds, without adapters.
    """
    option = "checkpoint-dir" if len(parts) > 1 else _option_of(parts[0])
    lacking = (f"--{name} {name.upper().replace('-', '_')}" for name in _lacking_options(parts))
    return " ".join([_CONVERT, f"--{option} {_quote(path)}", *lacking, "--output-dir OUT"])


def generate_with(path: Path, inputs: Inputs) -> str:
    """Make a video with a converted folder.

    Args:
        path: the folder.
        inputs: of its variant.
    """
    images = (name for name in inputs.required if name != "prompt")
    options = (f"--{name.replace('_', '-')} {name.upper()}" for name in images)
    return " ".join([_GENERATE, f"--model-dir {_quote(path)}", '--prompt "..."', *options])


def use_result(path: Path, kind: Kind, parts: Sequence[FilePart]) -> str:
    """Use adapters, latents or the state of a run.

    Args:
        path: the file, or a folder of such files.
        kind: what they are; of latents and states the first one is taken.
        parts: one for each file.
    """
    files = [path if path.is_file() else path / part.files[0] for part in parts]
    if kind == "adapter":
        flags = (find_role(part.expert or "model").adapter_flag for part in parts)
        loras = (f"{flag} {_quote(file)} 1" for flag, file in zip(flags, files, strict=True))
        return " ".join([_GENERATE, '--model-dir MODEL --prompt "..."', *loras])
    if kind == "latents":
        return f"{_GENERATE} --model-dir MODEL --decode-only {_quote(files[0])} --output-path video.mp4"
    video = files[0].with_name(files[0].name.removesuffix(_STATE_ENDING))
    return f'{_GENERATE} --model-dir MODEL --prompt "..." --output-path {_quote(video)} --resume'


def _option_of(part: FilePart) -> str:
    return part.expert.replace("_", "-") or find_component(part.component).flag.removeprefix("--")


def _lacking_options(parts: Collection[FilePart]) -> Iterator[str]:
    """What a conversion needs besides."""
    by_name = {part.component: part for part in parts}
    for row in filter(lambda row: row.flag, list_components()):
        own = by_name.get(row.name)
        if own is None and (row.is_needed or any(row.name in part.reads for part in parts)):
            yield row.flag.removeprefix("--")
        elif own is not None and own.expert:
            yield from (role.flag.removeprefix("--") for role in ROLES if _is_other_expert(role, own))


def _is_other_expert(role: TransformerRole, part: FilePart) -> bool:
    return role.noise != "" and role.name != part.expert


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
