"""Which files of a repository on the Hub a model needs, told by their names and its small JSON files."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mlx_video.errors import CheckpointError
from mlx_video.hub.advice import MOST_NAMED, describe_other, propose_files
from mlx_video.layouts.components import ORIGINAL_STEM, ROLES, VAE, VAE_FILES, find_role, list_parts
from mlx_video.layouts.diffusers_folder import MODEL_INDEX
from mlx_video.layouts.filled_options import list_options
from mlx_video.layouts.folder_layout import (
    CONFIG_FILE,
    EXPERT_FOLDERS,
    FASTVIDEO_MANIFEST,
    FASTVIDEO_WEIGHTS,
    TOKENIZER_FILES,
    Layout,
)
from mlx_video.layouts.folder_layout import TOKENIZER_FOLDER as CONVERTED_TOKENIZER
from mlx_video.layouts.loose_files import is_weight_name
from mlx_video.layouts.original_folder import TOKENIZER_FOLDER
from mlx_video.layouts.shards import SPLIT_BLOCK, SPLIT_REST, read_weight_map
from mlx_video.layouts.weight_sets import SHARD, find_ending, find_sets

Use = Literal["convert", "run"]
ReadJson = Callable[[str], Mapping[str, Any]]

_CONVERT = "python -m mlx_video.convert_wan --checkpoint-dir"
_GENERATE = "python -m mlx_video.generate_wan --model-dir"
_SCHEDULER_FILE = "scheduler/scheduler_config.json"
# A transformer's file may be called as those of any model; text encoders and VAEs of MLX folders may not.
_CONVERTED_NAME = re.compile(r"(t5_encoder\w*|vae|vae_(encoder|decoder))\.safetensors")
_COMFY_NAME = re.compile(r"(^|/)(diffusion_models|unet|text_encoders)/[^/]+$|\.gguf$")


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
    layout = recognise_names(names)
    _check_use(repository, layout, names, use)
    if layout == "original_dual":
        _refuse_several(repository, names, given)
    choosers = {
        "converted": _choose_converted,
        "diffusers": _choose_diffusers,
        "fastvideo": _choose_fastvideo,
    }
    choose = choosers.get(layout, _choose_original)
    starts = _starts_by_option()
    left_out = tuple(start for option in given for start in starts.get(option, ()))
    return sorted(name for name in set(choose(frozenset(names), read_json)) if not name.startswith(left_out))


def _starts_by_option() -> dict[str, tuple[str, ...]]:
    """Component by its option → how the names of its files begin, where it can be left out."""
    starts = {row.option: row.starts for row in list_parts() if row.option}
    starts["tokenizer"] = (f"{TOKENIZER_FOLDER}/", f"{CONVERTED_TOKENIZER}/")
    folders = {role.folder for role in ROLES}
    own = {role.original_folder for role in ROLES if role.original_folder}
    starts["transformer"] = (ORIGINAL_STEM, *(f"{folder}/" for folder in sorted(own | folders)))
    for role in ROLES:
        if role.original_folder:
            # Diffusers calls the only transformer like one of two.
            second = [f"{role.folder}/"] if role.folder != find_role("model").folder else []
            starts[role.option] = (f"{role.original_folder}/", *second)
    return starts


def recognise_names(names: Collection[str]) -> Layout:
    """Tell what layout a repository has from the names of its files; the first rule that fits wins."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    if any(_CONVERTED_NAME.fullmatch(name) for name in names):
        return "converted"
    if FASTVIDEO_MANIFEST in names:
        return "fastvideo"
    if MODEL_INDEX in names or "transformer" in folders:
        return "diffusers"
    if not folders.isdisjoint(EXPERT_FOLDERS.values()):
        return "original_dual"
    if "non_block.safetensors" in names:
        return "lightx2v"
    if any(_is_weight_file(name, ORIGINAL_STEM) for name in names):
        return "original"
    return "comfy" if any(is_weight_name(name) and _COMFY_NAME.search(name) for name in names) else "unknown"


def _check_use(repository: str, layout: Layout, names: Collection[str], use: Use) -> None:
    is_convertible = layout in ("original", "original_dual", "diffusers")
    if layout == "converted":
        if use == "convert":
            raise CheckpointError(
                f"{repository}: is already an MLX folder. Give it to --model-dir; to quantize it use "
                "--quantize-only."
            )
    elif layout == "fastvideo":
        if use == "convert":
            raise CheckpointError(
                f"{repository}: is a FastVideo MLX folder, which is not converted but run as it is: "
                f"{_GENERATE} {repository}"
            )
    elif not is_convertible:
        raise CheckpointError(f"{repository}: {describe_other(repository, layout, names)}")
    elif use == "run":
        raise CheckpointError(
            f"{repository}: is a checkpoint that is not converted. Convert it first: {_CONVERT} {repository}"
        )


def _choose_converted(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    yield from (name for name in names if "/" not in name and name.endswith((".safetensors", ".json")))
    yield from present_names(names, (*TOKENIZER_FILES, *names_in(CONVERTED_TOKENIZER, TOKENIZER_FILES)))


def _choose_fastvideo(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    """The quantized transformer of the folder itself, and what lies beside it as in a Diffusers folder."""
    yield from present_names(names, [FASTVIDEO_MANIFEST, FASTVIDEO_WEIGHTS])
    yield from present_names(names, names_in(CONVERTED_TOKENIZER, TOKENIZER_FILES))
    for row in list_parts():
        if row.is_needed:
            yield from present_names(names, names_in(row.folder, [CONFIG_FILE]))
            yield from choose_weights(names, row.folder, row.stem, read_json)


def _choose_original(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    experts = [folder for folder in EXPERT_FOLDERS.values() if any(n.startswith(f"{folder}/") for n in names)]
    for folder in experts or [""]:
        weights = list(choose_weights(names, folder, ORIGINAL_STEM, read_json))
        yield from weights or choose_split(names, folder)
        if experts and not weights:
            yield from _loose_weights(names, folder)
        yield from present_names(names, names_in(folder, [CONFIG_FILE]))
    config = read_json(CONFIG_FILE) if CONFIG_FILE in names and not experts else {}
    yield from present_names(names, names_in(TOKENIZER_FOLDER, TOKENIZER_FILES))
    kind = "two experts" if experts else config.get("model_type")
    for row in list_parts():
        if row is VAE:
            yield from _choose_vae(names, config)
        elif kind not in row.not_for:
            yield from present_names(names, row.original_files)


def choose_split(names: frozenset[str], folder: str) -> list[str]:
    """The files of a transformer that LightX2V split; none where the folder holds no such."""
    rest = names_in(folder, [SPLIT_REST])[0]
    if rest not in names:
        return []
    return [
        rest,
        *(name for name in _files_in(names, folder) if SPLIT_BLOCK.fullmatch(PurePosixPath(name).name)),
    ]


def _loose_weights(names: Collection[str], folder: str) -> list[str]:
    """The weight files of any name that lie directly in an expert's folder without those of usual names."""
    own = [name for name in _files_in(names, folder) if is_weight_name(name)]
    usual = [PurePosixPath(name).name for name in own]
    is_usual = SPLIT_REST in usual or any(_is_weight_file(name, ORIGINAL_STEM) for name in usual)
    return [] if is_usual else own


def _files_in(names: Collection[str], folder: str) -> list[str]:
    return sorted(name for name in names if name.rpartition("/")[0] == folder)


def _refuse_several(repository: str, names: Collection[str], given: Collection[str]) -> None:
    """Refuse folders of experts that hold several files of any name, of which the user has to choose."""
    loose = {
        expert: _loose_weights(names, folder)
        for expert, folder in EXPERT_FOLDERS.items()
        if expert not in given and "transformer" not in given
    }
    if any(len({SHARD.sub("", name) for name in files}) > 1 for files in loose.values()):
        options = propose_files(repository, [name for files in loose.values() for name in files])
        raise CheckpointError(
            f"{repository}: its folders hold several transformers. Choose by such options:"
            + list_options(options, MOST_NAMED)
        )


def _choose_vae(names: frozenset[str], config: Mapping[str, Any]) -> list[str]:
    """The VAE; where both lie there, the one of as many channels as the transformer makes."""
    present = present_names(names, VAE_FILES.values())
    if len(present) < 2:
        return present
    return [VAE_FILES["2.2" if config.get("out_dim") == 48 else "2.1"]]


def _choose_diffusers(names: frozenset[str], read_json: ReadJson) -> Iterator[str]:
    index = read_json(MODEL_INDEX) if MODEL_INDEX in names else {}
    absent = {part for part, entry in index.items() if isinstance(entry, list) and not any(entry)}
    yield from present_names(names, [MODEL_INDEX, _SCHEDULER_FILE, *names_in("tokenizer", TOKENIZER_FILES)])
    stems = {role.folder: ORIGINAL_STEM for role in ROLES}
    stems |= {row.folder: row.stem for row in list_parts() if row.folder}
    for folder, stem in stems.items():
        if folder not in absent:
            yield from present_names(names, names_in(folder, [CONFIG_FILE]))
            yield from choose_weights(names, folder, stem, read_json)


def choose_weights(names: frozenset[str], folder: str, stem: str, read_json: ReadJson) -> Iterator[str]:
    """Choose one component's weights.

    Args:
        names: of all files of the repository.
        folder: in which the weights lie; "" for none.
        stem: how the files' names begin.
        read_json: reads one of them that holds a JSON object.

    Yields:
        The files of one copy, chosen as in a folder, and the index that tells of them. Of copies that are
        equals the first is taken, since a folder of several would be refused.
    """
    plain_index = names_in(folder, [f"{stem}.safetensors.index.json"])[0]
    named = set(read_weight_map(read_json(plain_index)).values()) if plain_index in names else set()
    own = [Path(name).name for name in names if Path(name).parent == Path(folder)]
    sets = find_sets(own, stem, named)
    if not sets:
        yield from present_names(names, [plain_index])
        return
    index = names_in(folder, [f"{stem}.safetensors.index{sets[0].ending}.json"])[0]
    if index in names and index != plain_index:
        yield index
        files = set(read_weight_map(read_json(index)).values())
    else:
        yield from present_names(names, [plain_index])
        files = named if sets[0].is_named else set(sets[0].names)
    yield from present_names(names, names_in(folder, files))


def _is_weight_file(name: str, stem: str) -> bool:
    return find_ending(Path(name).name, stem) is not None


def names_in(folder: str, names: Collection[str]) -> list[str]:
    """Names with a folder before them; "" for none."""
    return [f"{folder}/{name}" if folder else name for name in names]


def present_names(names: frozenset[str], wanted: Collection[str]) -> list[str]:
    """Wanted names that a repository has, in their order."""
    return [name for name in wanted if name in names]
