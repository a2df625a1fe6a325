"""What to do with a repository on the Hub that holds single files: options that name them, filled in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from mlx_video.layouts.components import VAE, Component, list_parts
from mlx_video.layouts.filled_options import name_transformers
from mlx_video.layouts.folder_layout import SPLIT_REST
from mlx_video.layouts.loose_files import is_weight_name
from mlx_video.layouts.shards import SPLIT_BLOCK

_LORA_NAME = r"(^|/)loras?/|lora|lycoris"
_OTHER_NAME = r"controlnet|vace.module|ip.?adapter|preview|upscale"
_TRANSFORMER_FOLDER = re.compile(r"(^|/)(diffusion_models|unet)/")
# GGUF and the folders of ComfyUI hold video models mostly.
_WAN_NAME = re.compile(r"wan|(^|/)(diffusion_models|unet|text_encoders)/[^/]+$|\.gguf$", re.IGNORECASE)
# How many examples a message has.
MOST_NAMED = 3


def describe_other(repository: str, names: Collection[str]) -> str:
    """Say what a repository holds that is no checkpoint in one of the known layouts.

    Args:
        repository: its name.
        names: of all its files.
    """
    weights = [name for name in sorted(names) if is_weight_name(name)]
    shown = ", ".join(weights[:MOST_NAMED]) + (" ..." if len(weights) > MOST_NAMED else "")
    options, files = propose_files(repository, weights), _by_purpose(weights)
    single_files = f"holds {len(weights)} single files ({shown})"
    if [*files] == ["--lora"]:
        first = _value(repository, weights[0])
        return f"{single_files}. They are adapters; name one for a model: --lora {first}"
    is_of_wan = any(_WAN_NAME.search(name) for name in (repository, *weights))
    if options and is_of_wan:
        first, *others = options
        lines = [f"  or {option}" for option in others[: MOST_NAMED - 1]]
        encoders = [row.flag for row in _most_needed_first() if row.flag in files]
        lines += [
            f"  and {flag} {_value(repository, files[flag][0])}" for flag in encoders if flag not in first
        ]
        return (
            f"{single_files}, and no name says which belong together. Name those of one model: {first}, and "
            "the others by --transformer, --text-encoder and --vae in the same way, to python -m "
            "mlx_video.convert_wan. Only they are downloaded." + "".join(f"\n{line}" for line in lines)
        )
    return (
        f"holds no Wan checkpoint in the original, Diffusers' or the MLX layout ({len(weights)} weight "
        f"files{f': {shown}' if shown else ''}). Is it the right repository?"
    )


def _most_needed_first() -> list[Component]:
    return sorted((row for row in list_parts() if row.flag), key=lambda row: not row.is_needed)


def _list_purposes() -> list[tuple[str, str]]:
    """Option → what names of its files have, the first that fits."""
    others = [row for row in reversed(list_parts()) if row.name_hint and row is not VAE]
    return [
        (VAE.flag, VAE.name_hint),
        ("--lora", _LORA_NAME),
        *((row.flag, row.name_hint) for row in others),
        ("", _OTHER_NAME),
        ("--transformer", ""),
    ]


def _by_purpose(weights: Sequence[str]) -> dict[str, list[str]]:
    """Option → the files that it takes, as far as names tell."""
    found: dict[str, list[str]] = {}
    purposes = _list_purposes()
    for name in weights:
        purpose = next(flag for flag, hint in purposes if re.search(hint, name, re.IGNORECASE))
        found.setdefault(purpose, []).append(name)
    return found


def propose_files(repository: str, weights: Sequence[str]) -> list[str]:
    """Options that name single files of a repository, the likeliest first.

    Args:
        repository: its name.
        weights: the names of its weight files.

    Returns:
        For each pair of experts two options, else one for each transformer; where there is none, for a text
        encoder.
    """
    folders = [name for name in weights if _TRANSFORMER_FOLDER.search(name)]
    files = _by_purpose(weights)
    transformers = folders or files.get("--transformer", [])
    transformers = list(dict.fromkeys(map(_name_of_whole, transformers)))
    options = name_transformers({name: _value(repository, name) for name in transformers})
    texts = files.get("--text-encoder", [])
    return options or [f"--text-encoder {_value(repository, name)}" for name in texts]


def _value(repository: str, name: str) -> str:
    """A file of a repository as the value of an option."""
    return shlex.quote(f"{repository}/{name}")


def _name_of_whole(name: str) -> str:
    """The folder of a transformer that LightX2V split into files; else the file itself."""
    path = PurePosixPath(name)
    is_split = path.name == SPLIT_REST or SPLIT_BLOCK.fullmatch(path.name)
    return str(path.parent) if is_split and path.parent.name else name
