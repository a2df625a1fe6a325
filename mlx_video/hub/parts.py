"""Which files of a repository on the Hub one component or one adapter needs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Literal

from mlx_video.errors import CheckpointError
from mlx_video.hub.files import choose_split, choose_weights
from mlx_video.layouts.adapter_folder import ADAPTER_CONFIG, ADAPTER_FILES, adapter_candidates
from mlx_video.layouts.components import ENCODER_STEM, ORIGINAL_STEM
from mlx_video.layouts.folder_layout import CONFIG_FILE, TOKENIZER_FILES, TOKENIZER_FORMS
from mlx_video.layouts.listing import Listing, ReadJson
from mlx_video.layouts.loose_files import is_weight_name
from mlx_video.layouts.weight_sets import SHARD

Part = Literal["component", "tokenizer", "adapter"]
_Choose = Callable[[Listing, str], list[str]]

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
    listing = Listing(frozenset(names), read_json)
    if place in listing.files and part != "tokenizer":  # that is always a folder
        return sorted(_BESIDE[part](listing, place))
    chosen = _IN_FOLDER[part](listing, place)
    if not chosen:
        raise CheckpointError(f"{repository}: {_describe_absent(repository, place, listing, part)}")
    return sorted(set(chosen))


def _with_other_shards(listing: Listing, file: str) -> list[str]:
    """A file with those that its name says belong to it; shards of another number are of another set."""
    return [name for name in listing.files if _without_number(name) == _without_number(file)]


def _without_number(name: str) -> str:
    return SHARD.sub(r"-of-\2", name)


def _with_description(listing: Listing, file: str) -> list[str]:
    """An adapter's file, and what PEFT says of it where the file is PEFT's or Diffusers'."""
    folder, _, name = file.rpartition("/")
    return [file, *listing.choose(folder, [ADAPTER_CONFIG] if name in ADAPTER_FILES else [])]


def _choose_component(listing: Listing, folder: str) -> list[str]:
    stems = (ORIGINAL_STEM, ENCODER_STEM)
    weights = choose_split(listing, folder)
    weights = weights or [name for stem in stems for name in choose_weights(listing, folder, stem)]
    return weights and [*weights, *listing.choose(folder, [CONFIG_FILE])]


def _choose_tokenizer(listing: Listing, folder: str) -> list[str]:
    is_whole = listing.choose(folder, TOKENIZER_FORMS)
    return listing.choose(folder, TOKENIZER_FILES) if is_whole else []


def _choose_adapter(listing: Listing, folder: str) -> list[str]:
    found = _adapters_of(listing, folder)
    return _with_description(listing, found[0]) if len(found) == 1 else []


def _adapters_of(listing: Listing, folder: str) -> list[str]:
    return listing.choose(folder, adapter_candidates(listing.names_in(folder)))


_BESIDE: dict[Part, Callable[[Listing, str], list[str]]] = {
    "component": _with_other_shards,
    "adapter": _with_description,
}
_IN_FOLDER: dict[Part, _Choose] = {
    "component": _choose_component,
    "tokenizer": _choose_tokenizer,
    "adapter": _choose_adapter,
}


def _describe_absent(repository: str, place: str, listing: Listing, part: Part) -> str:
    """What was not found, and what may be meant."""
    several = _adapters_of(listing, place) if part == "adapter" else []
    if several:
        return f"holds several adapters ({', '.join(several[:3])}). Name one: {repository}/{several[0]}"
    is_here = place in listing.files or listing.has_folder(place)
    what = f"{_FILES[part]} in {place}" if is_here else place or f"{_FILES[part]} outside of folders"
    folders = (name.rpartition("/") for name in listing.files)
    tokenizers = {folder for folder, _, name in folders if folder and name in TOKENIZER_FORMS}
    offered = sorted(tokenizers if part == "tokenizer" else filter(is_weight_name, listing.files))
    near = get_close_matches(place, offered, n=1) or offered
    return f"has no {what}.{f' Is it {near[0]}?' if near else ' Is it the right repository?'}"
