"""Which files of a repository on the Hub one component or one adapter needs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Literal

from mlx_video.errors import CheckpointError
from mlx_video.hub.files import ReadJson, choose_split, choose_weights, names_in, present_names
from mlx_video.layouts.adapter_folder import ADAPTER_CONFIG, ADAPTER_FILES, adapter_candidates
from mlx_video.layouts.components import ENCODER_STEM, ORIGINAL_STEM
from mlx_video.layouts.folder_layout import CONFIG_FILE, TOKENIZER_FILES, TOKENIZER_MODEL
from mlx_video.layouts.loose_files import is_weight_name
from mlx_video.layouts.weight_sets import SHARD

Part = Literal["component", "tokenizer", "adapter"]
_Choose = Callable[[frozenset[str], str, ReadJson], list[str]]

# What messages call the files of each.
_FILES = {"component": "weights", "tokenizer": "tokenizer", "adapter": "adapter"}


def choose_part(
    repository: str, place: str, names: Collection[str], read_json: ReadJson, *, part: Part = "component"
) -> list[str]:
    """Choose the files of one component or adapter.

    Args:
        repository: for messages.
        place: a file of the repository, or a folder; "" for the files that lie in no folder.
        names: of all its files.
        read_json: reads one of them that holds a JSON object.
        part: what is wanted of a folder: the shards of a component, a tokenizer or an adapter.

    Returns:
        Sorted names; with a shard its siblings, with an adapter PEFT's description of it.

    Raises:
        CheckpointError: there is no such file, or nothing of the kind in the folder.
    """
    present = frozenset(names)
    if place in present and part != "tokenizer":  # that is always a folder
        return sorted(_BESIDE[part](present, place))
    chosen = _IN_FOLDER[part](present, place, read_json)
    if not chosen:
        raise CheckpointError(f"{repository}: {_describe_absent(repository, place, present, part)}")
    return sorted(set(chosen))


def _with_other_shards(names: frozenset[str], file: str) -> list[str]:
    """A file with those that its name says belong to it; shards of another number are of another set."""
    return [name for name in names if _without_number(name) == _without_number(file)]


def _without_number(name: str) -> str:
    return SHARD.sub(r"-of-\2", name)


def _with_description(names: frozenset[str], file: str) -> list[str]:
    """An adapter's file, and what PEFT says of it where the file is PEFT's or Diffusers'."""
    place = PurePosixPath(file)
    description = str(place.with_name(ADAPTER_CONFIG))
    return [file, *present_names(names, [description] if place.name in ADAPTER_FILES else [])]


def _choose_component(names: frozenset[str], folder: str, read_json: ReadJson) -> list[str]:
    stems = (ORIGINAL_STEM, ENCODER_STEM)
    weights = choose_split(names, folder)
    weights = weights or [name for stem in stems for name in choose_weights(names, folder, stem, read_json)]
    return weights and [*weights, *present_names(names, names_in(folder, [CONFIG_FILE]))]


def _choose_tokenizer(names: frozenset[str], folder: str, read_json: ReadJson) -> list[str]:
    return present_names(names, names_in(folder, TOKENIZER_FILES)) if folder in _tokenizers(names) else []


def _tokenizers(names: Collection[str]) -> list[str]:
    """The folders that hold a tokenizer in one of its two forms; "" for the repository itself."""
    forms = ("tokenizer.json", TOKENIZER_MODEL)
    return sorted({_folder_of(name) for name in names if PurePosixPath(name).name in forms})


def _choose_adapter(names: frozenset[str], folder: str, read_json: ReadJson) -> list[str]:
    found = _adapters_of(names, folder)
    return _with_description(names, found[0]) if len(found) == 1 else []


def _adapters_of(names: Collection[str], folder: str) -> list[str]:
    own = [PurePosixPath(name).name for name in names if _folder_of(name) == folder]
    return names_in(folder, adapter_candidates(own))


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


_BESIDE: dict[Part, Callable[[frozenset[str], str], list[str]]] = {
    "component": _with_other_shards,
    "adapter": _with_description,
}
_IN_FOLDER: dict[Part, _Choose] = {
    "component": _choose_component,
    "tokenizer": _choose_tokenizer,
    "adapter": _choose_adapter,
}


def _describe_absent(repository: str, place: str, names: Collection[str], part: Part) -> str:
    """What was not found, and what may be meant."""
    several = _adapters_of(names, place) if part == "adapter" else []
    if several:
        return f"holds several adapters ({', '.join(several[:3])}). Name one: {repository}/{several[0]}"
    is_here = place in names or any(name.startswith(f"{place}/") for name in names)
    what = f"{_FILES[part]} in {place}" if is_here else place or f"{_FILES[part]} outside of folders"
    offered = sorted(
        filter(None, _tokenizers(names) if part == "tokenizer" else filter(is_weight_name, names))
    )
    near = get_close_matches(place, offered, n=1) or offered
    return f"has no {what}.{f' Is it {near[0]}?' if near else ' Is it the right repository?'}"
