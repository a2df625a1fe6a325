"""Which files of a repository on the Hub a model needs, told by their names and its small JSON files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from mlx_video.errors import CheckpointError
from mlx_video.hub.advice import MOST_NAMED, describe_other, propose_files
from mlx_video.layouts.components import (
    EXPERT_ROLES,
    ORIGINAL_STEM,
    ROLES,
    VAE,
    VAE_FILES,
    Component,
    TransformerRole,
    find_role,
    list_parts,
)
from mlx_video.layouts.diffusers_folder import SCHEDULER_CONFIG
from mlx_video.layouts.filled_options import list_options
from mlx_video.layouts.folder_layout import (
    CONFIG_FILE,
    FASTVIDEO_FILES,
    MODEL_INDEX,
    ORIGINAL_TOKENIZER,
    SPLIT_REST,
    TOKENIZER_FILES,
    TOKENIZER_FOLDER,
    Layout,
    find_fastvideo_folder,
    find_transformer_folder,
    recognise_listing,
)
from mlx_video.layouts.listing import Listing, ReadJson
from mlx_video.layouts.loose_files import is_weight_name
from mlx_video.layouts.open_checkpoint import refuse_ready
from mlx_video.layouts.shards import SPLIT_BLOCK, read_weight_map
from mlx_video.layouts.weight_sets import SHARD, find_ending, find_sets, index_name

Use = Literal["convert", "run"]
Row = TypeVar("Row", Component, TransformerRole)


def choose_files(
    repository: str,
    names: Collection[str],
    read_json: ReadJson,
    *,
    use: Use,
    given: Collection[str] = (),
) -> list[str]:
    """Choose what a model needs of its repository.

    Args:
        repository: for messages.
        names: of all its files, folders with a slash.
        read_json: reads one of them that holds a JSON object.
        use: "convert" for a checkpoint of another layout, "run" for a converted folder.
        given: components that are had elsewhere, by the names of their options.

    Returns:
        Sorted names. Videos, pictures, copies in other formats and other precisions are not among them.

    Raises:
        CheckpointError: the repository holds no model, or one that is not for this use.
    """
    listing = Listing(frozenset(names), read_json)
    layout = recognise_listing(listing)
    _check_use(repository, layout, names, use)
    if layout == "original_dual":
        _refuse_several(repository, listing, given)
    return sorted(set(_CHOOSERS[layout](listing, given)))


def _check_use(repository: str, layout: Layout, names: Collection[str], use: Use) -> None:
    if use == "convert":
        refuse_ready(repository, layout)
    if layout not in _CHOOSERS:
        raise CheckpointError(f"{repository}: {describe_other(repository, names)}")
    if use == "run" and layout not in ("converted", "fastvideo"):
        raise CheckpointError(
            f"{repository}: is a checkpoint that is not converted. Convert it first: "
            f"python -m mlx_video.convert_wan --checkpoint-dir {repository}"
        )


def _without(rows: Iterable[Row], given: Collection[str]) -> list[Row]:
    """The rows of the components that are not had elsewhere."""
    return [row for row in rows if row.option not in given and not (row in ROLES and "transformer" in given)]


def _choose_tokenizer(listing: Listing, given: Collection[str], *folders: str) -> Iterator[str]:
    for folder in folders if "tokenizer" not in given else ():
        yield from listing.choose(folder, TOKENIZER_FILES)


def _choose_converted(listing: Listing, given: Collection[str]) -> Iterator[str]:
    yield from listing.choose("", [CONFIG_FILE, *(role.file_name for role in ROLES)])
    for row in _without(list_parts(), given):
        yield from listing.choose("", row.names_in_converted)[:1]
        yield from listing.choose("", [row.second_file])
    yield from _choose_tokenizer(listing, given, TOKENIZER_FOLDER, "")


def _choose_fastvideo(listing: Listing, given: Collection[str]) -> Iterator[str]:
    """The quantized transformer, and what lies beside it as in a Diffusers folder."""
    yield from listing.choose(find_fastvideo_folder(listing) or "", FASTVIDEO_FILES)
    yield from _choose_tokenizer(listing, given, TOKENIZER_FOLDER)
    for row in _without(list_parts(), given):
        if row.is_needed:
            yield from _choose_folder(listing, row.folder, row.stem)


def _choose_diffusers(listing: Listing, given: Collection[str]) -> Iterator[str]:
    index = listing.read_json(MODEL_INDEX)
    absent = {part for part, entry in index.items() if isinstance(entry, list) and not any(entry)}
    yield from listing.choose("", [MODEL_INDEX, SCHEDULER_CONFIG])
    yield from _choose_tokenizer(listing, given, TOKENIZER_FOLDER)
    second = find_role("low_noise").folder
    is_dual = listing.has_folder(second) and second not in absent
    roles = EXPERT_ROLES if is_dual else [find_role("model")]
    own = {find_role("model").folder: find_transformer_folder(listing)}
    folders = {own.get(role.folder, role.folder): ORIGINAL_STEM for role in _without(roles, given)}
    folders |= {row.folder: row.stem for row in _without(list_parts(), given) if row.folder}
    for folder, stem in folders.items():
        if folder not in absent:
            yield from _choose_folder(listing, folder, stem)


def _choose_folder(listing: Listing, folder: str, stem: str) -> list[str]:
    """The files of a component in a Diffusers folder."""
    return [*listing.choose(folder, [CONFIG_FILE]), *choose_weights(listing, folder, stem)]


def _choose_original(listing: Listing, given: Collection[str]) -> Iterator[str]:
    experts = [role for role in EXPERT_ROLES if listing.has_folder(role.original_folder)]
    for role in _without(experts or [find_role("model")], given):
        folder = role.original_folder
        weights = choose_weights(listing, folder, ORIGINAL_STEM) or choose_split(listing, folder)
        yield from weights or (_loose_weights(listing, folder) if experts else [])
        yield from listing.choose(folder, [CONFIG_FILE])
    yield from _choose_tokenizer(listing, given, ORIGINAL_TOKENIZER)
    # Also where the transformer is had elsewhere: it tells what a model beside it needs.
    yield from [] if experts else listing.choose("", [CONFIG_FILE])
    config = {} if experts else listing.read_json(CONFIG_FILE)
    kind = "two experts" if experts else config.get("model_type")
    for row in _without(list_parts(), given):
        if row is VAE:
            yield from _choose_vae(listing, config)
        elif kind not in row.not_for:
            yield from listing.choose("", row.original_files)


def _choose_vae(listing: Listing, config: Mapping[str, Any]) -> list[str]:
    """The VAE; where both lie there, the one of as many channels as the transformer makes."""
    present = listing.choose("", VAE_FILES.values())
    if len(present) < 2:
        return present
    return [VAE_FILES["2.2" if config.get("out_dim") == 48 else "2.1"]]


_CHOOSERS: Mapping[Layout, Callable[[Listing, Collection[str]], Iterator[str]]] = {
    "converted": _choose_converted,
    "fastvideo": _choose_fastvideo,
    "diffusers": _choose_diffusers,
    "original_dual": _choose_original,
    "original": _choose_original,
}


def _loose_weights(listing: Listing, folder: str) -> list[str]:
    """The weight files of any name that lie directly in an expert's folder without those of usual names."""
    own = list(filter(is_weight_name, listing.names_in(folder)))
    is_usual = SPLIT_REST in own or any(find_ending(name, ORIGINAL_STEM) is not None for name in own)
    return [] if is_usual else listing.choose(folder, own)


def _refuse_several(repository: str, listing: Listing, given: Collection[str]) -> None:
    """Refuse folders of experts that hold several files of any name, of which the user has to choose."""
    loose = [_loose_weights(listing, role.original_folder) for role in _without(EXPERT_ROLES, given)]
    if any(len({SHARD.sub("", name) for name in files}) > 1 for files in loose):
        options = propose_files(repository, [name for files in loose for name in files])
        raise CheckpointError(
            f"{repository}: its folders hold several transformers. Choose by such options:"
            + list_options(options, MOST_NAMED)
        )


def choose_split(listing: Listing, folder: str) -> list[str]:
    """The files of a transformer that LightX2V split; none where the folder holds no such."""
    names = listing.names_in(folder)
    blocks = filter(SPLIT_BLOCK.fullmatch, names)
    return listing.choose(folder, [SPLIT_REST, *blocks]) if SPLIT_REST in names else []


def choose_weights(listing: Listing, folder: str, stem: str) -> list[str]:
    """Choose one component's weights.

    Args:
        listing: the repository.
        folder: in which the weights lie; "" for none.
        stem: how the files' names begin.

    Returns:
        The files of one copy, chosen as in a folder, and the index that tells of them. Of copies that are
        equals the first is taken, since a folder of several would be refused.
    """
    index = index_name(stem)
    named = _files_named_by(listing, folder, index)
    sets = find_sets(listing.names_in(folder), stem, named)
    if not sets:
        return listing.choose(folder, [index])
    own = index_name(stem, sets[0].ending)
    if own != index and listing.choose(folder, [own]):
        return listing.choose(folder, [own, *_files_named_by(listing, folder, own)])
    return listing.choose(folder, [index, *(named if sets[0].is_named else sets[0].names)])


def _files_named_by(listing: Listing, folder: str, index: str) -> Collection[str]:
    """The names in a folder that an index there maps tensors to; none where it is absent."""
    found = listing.choose(folder, [index])
    return set(read_weight_map(listing.read_json(found[0])).values()) if found else ()
