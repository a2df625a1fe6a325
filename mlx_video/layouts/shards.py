"""Which files hold one component in safetensors, and whether they are all there."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mlx_video.errors import CheckpointError, MissingPartError
from mlx_video.files.file_bytes import refuse_dangling
from mlx_video.files.unusable_paths import is_dangling
from mlx_video.formats.safetensors_header import read_header
from mlx_video.layouts.components import ORIGINAL_STEM
from mlx_video.layouts.folder_layout import SPLIT_REST, read_json_object
from mlx_video.layouts.weight_sets import (
    SHARD,
    WeightSet,
    describe_choice,
    find_absent_shard,
    find_ending,
    find_sets,
    index_name,
)

SPLIT_BLOCK = re.compile(r"block_(\d+)\.safetensors")
# What tools round a size to: thousands of thousands, and powers of two.
_ROUNDED_UNITS = (10**6, 2**20, 10**9, 2**30)
_LARGEST_ROUNDING = 0.01  # of the size


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """The weight files of one component.

    Attributes:
        paths: in shard order.
        notices: which of several copies they are.
    """

    paths: tuple[Path, ...]
    notices: tuple[str, ...] = ()


def find_weights(folder: Path, stem: str = ORIGINAL_STEM, *, component: str = "transformer") -> FoundWeights:
    """Find the weight files of the component in a folder and check that none is missing.

    Of several copies of the weights, such as those in another precision, a whole one is taken: the one that
    the index names, else the one without a word of its own in its files' names.

    Args:
        folder: where `<stem>*.safetensors` lie, with an index or without.
        stem: how the files' names begin.
        component: what messages call it.

    Returns:
        The files in shard order. With an index: those it names, after comparing it with their headers.

    Raises:
        CheckpointError: there are no weights, a shard is absent, or files do not belong together.
    """
    index = folder / index_name(stem)
    refuse_dangling(index)
    # A dangling link counts as a file, so that it is named where it is wanted.
    present = [path.name for path in folder.glob(f"{stem}*") if path.is_file() or is_dangling(path)]
    sets = find_sets(present, stem, _named_files(index))
    if not sets and not index.is_file():
        raise MissingPartError(
            f"{folder}: no {component} found, expected {stem}.safetensors or its shards. "
            "Download the whole repository, or give the folder that holds these files."
        )
    if not sets:
        return FoundWeights(_check_one_copy(index, _files_of_index(index), ()))
    _refuse_equals(folder, sets, component)
    notices = (f"{folder}: of the {component}, {describe_choice(sets)}.",) if len(sets) > 1 else ()
    return FoundWeights(_check_set(folder, stem, sets[0], component), notices)


def _check_set(folder: Path, stem: str, chosen: WeightSet, component: str) -> tuple[Path, ...]:
    """The files of one copy after comparing them with their index, or with that of another copy."""
    files = tuple(folder / name for name in chosen.names)
    index, own = folder / index_name(stem), folder / index_name(stem, chosen.ending)
    if not own.is_file():
        own = index
    if own.is_file() and not (own == index and _is_of_other_copy(index, stem, chosen)):
        return _check_one_copy(own, _files_of_index(own), files)
    _check_lone_set(folder, files, component)
    if index.is_file():
        _check_names(index, files)
    return files


def _named_files(index: Path) -> frozenset[str]:
    """The files that an index names; none where it is absent or says nothing of them."""
    return frozenset(read_weight_map(read_json_object(index)).values()) if index.is_file() else frozenset()


def _refuse_equals(folder: Path, sets: Sequence[WeightSet], component: str) -> None:
    """Refuse copies of which none is the one to take."""
    equals = [one for one in sets if one.rank == sets[0].rank]
    if len(equals) > 1 and not equals[0].lacks:
        names = ", ".join(one.title for one in equals)
        raise CheckpointError(
            f"{folder}: holds the {component} in several variants ({names}). Keep the files of one of them."
        )


def _is_of_other_copy(index: Path, stem: str, chosen: WeightSet) -> bool:
    """Whether an index names files of other copies and none of the chosen one."""
    endings = {find_ending(name, stem) for name in _named_files(index)}
    return bool(endings) and None not in endings and chosen.ending not in endings


def _check_lone_set(folder: Path, files: Sequence[Path], component: str) -> None:
    if len(files) > 1 and not all(SHARD.search(path.name) for path in files):
        raise CheckpointError(
            f"{folder}: {len(files)} {component} files that are not shards of one another "
            f"({', '.join(path.name for path in files[:3])}). Keep one of them."
        )
    check_shards(files)


def _check_names(index: Path, files: Sequence[Path]) -> None:
    """Compare files with the index of another copy; scales of a narrower type may be there besides."""
    mapped = read_weight_map(read_json_object(index)).keys()
    held = {name for path in files for name in read_header(path).infos}
    lacking = sorted(mapped - held)
    if lacking:
        raise CheckpointError(
            f"{files[0]}: it and its other shards lack {len(lacking)} tensors that {index.name} lists, first "
            f"{lacking[0]}. They are from different revisions; fetch the shards and the index again."
        )


def split_files(folder: Path) -> tuple[Path, ...]:
    """The files of a transformer that LightX2V split: one for each block, one for the rest.

    Args:
        folder: where `block_<n>.safetensors` and `non_block.safetensors` lie.

    Returns:
        The rest first, then the blocks in order; nothing for a folder of another layout.

    Raises:
        CheckpointError: a file is absent.

    Source: ModelTC/LightX2V tools/convert/converter.py, option --save_by_block.
    """
    rest = folder / SPLIT_REST
    refuse_dangling(rest)
    if not rest.is_file():
        return ()
    found = ((SPLIT_BLOCK.fullmatch(path.name), path) for path in folder.iterdir())
    blocks = {int(match[1]): path for match, path in found if match}
    absent = next(number for number in count() if number not in blocks)
    if absent <= max(blocks, default=0):
        raise CheckpointError(
            f"{folder}: block_{absent}.safetensors is absent ({len(blocks)} of "
            f"{max(blocks, default=0) + 1} blocks found). Fetch it again."
        )
    return (rest, *(blocks[number] for number in sorted(blocks)))


def read_weight_map(index: Mapping[str, Any]) -> dict[str, str]:
    """What an index says: name of a tensor → the file in the same folder that holds it.

    Args:
        index: the content of its JSON file.

    Returns:
        The map; empty where there is none, or where a value is no name of a file.
    """
    found = index.get("weight_map")
    if not isinstance(found, dict):
        return {}
    is_usable = all(isinstance(name, str) and name == Path(name).name for name in found.values())
    return found if is_usable else {}


def _check_one_copy(index: Path, named: tuple[Path, ...], own: Collection[Path]) -> tuple[Path, ...]:
    strange = [path.name for path in named if path not in own]
    if strange:
        raise CheckpointError(
            f"{index}: names {strange[0]}, which is of another variant or another model. "
            "Keep the files of one download only."
        )
    return named


def check_shards(files: Sequence[Path]) -> None:
    """Check by their names that no shard of a component is missing; a lone file needs no number.

    Args:
        files: of one component, in one folder.

    Raises:
        CheckpointError: a shard is absent, or they are of different sets.
    """
    totals = {int(match[2]) for path in files if (match := SHARD.search(path.name))}
    if len(totals) > 1:
        raise CheckpointError(
            f"{files[0].parent}: shards of different sets ({', '.join(f'of {n}' for n in sorted(totals))}). "
            "Keep the files of one download only."
        )
    absent = find_absent_shard([path.name for path in files])
    if absent:
        number, total = (int(text) for text in SHARD.findall(absent)[0])
        raise CheckpointError(
            f"{files[0].with_name(absent)}: shard {number} of {total} is absent ({len(files)} of {total} "
            "found). Fetch it again."
        )


def _files_of_index(index: Path) -> tuple[Path, ...]:
    folder = index.parent
    content = read_json_object(index)
    weight_map = read_weight_map(content)
    if not weight_map:
        raise CheckpointError(f"{index}: has no weight_map from tensors to files. Fetch it again.")
    names = sorted(set(weight_map.values()))
    for name in names:
        _check_present(folder, name, weight_map)
    data_bytes = sum(_check_shard(index, name, weight_map) for name in names)
    file_bytes = sum((folder / name).stat().st_size for name in names)
    _check_total(index, content.get("metadata"), data_bytes, file_bytes)
    return tuple(folder / name for name in names)


def _check_present(folder: Path, name: str, weight_map: Mapping[str, str]) -> None:
    if (folder / name).is_file():
        return
    refuse_dangling(folder / name)
    missing = [tensor for tensor, file in weight_map.items() if file == name]
    match = SHARD.search(name)
    shard = f"Shard {int(match[1])} of {int(match[2])} ({name})" if match else name
    raise CheckpointError(
        f"{folder}: {len(missing)} tensors missing, first {missing[0]}. {shard} is absent; fetch it again."
    )


def _check_shard(index: Path, name: str, weight_map: Mapping[str, str]) -> int:
    """Compare one shard's header with the index; returns the bytes of its data."""
    infos = read_header(index.parent / name).infos
    mapped = {tensor for tensor, file in weight_map.items() if file == name}
    lacking, unmapped = sorted(mapped - infos.keys()), sorted(infos.keys() - mapped)
    if lacking:
        raise CheckpointError(
            f"{index.parent / name}: lacks {len(lacking)} tensors that {index.name} maps to it, "
            f"first {lacking[0]}. It is from another revision; fetch the shards and the index again."
        )
    if unmapped:
        place = weight_map.get(unmapped[0], "no file")
        raise CheckpointError(
            f"{index.parent / name}: holds {unmapped[0]}, which {index.name} maps to {place}. "
            "It is from another revision; fetch the shards and the index again."
        )
    return sum(info.nbytes for info in infos.values())


def _check_total(index: Path, metadata: object, data_bytes: int, file_bytes: int) -> None:
    """Compare the size that an index states with the shards, whose lengths are checked already.

    Some tools count whole files with their headers, and some round.
    """
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float):
        return  # no number, so nothing that could contradict
    if not any(total == counted or _is_rounded(total, counted) for counted in (data_bytes, file_bytes)):
        raise CheckpointError(
            f"{index}: total_size is {total}, the shards hold {data_bytes} bytes. "
            "The dtypes are from another revision; fetch the shards and the index again."
        )


def _is_rounded(total: float, counted: int) -> bool:
    """Whether a size is another one in whole units, such as megabytes."""
    off = abs(total - counted)
    if not math.isfinite(total) or off > _LARGEST_ROUNDING * counted:
        return False
    return any(total % unit == 0 and off < unit for unit in _ROUNDED_UNITS)
