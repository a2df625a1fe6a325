"""Which files hold one component in safetensors, and whether they are all there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_video.checkpoint.folder_layout import ORIGINAL_STEM, read_json_object
from mlx_video.checkpoint.safetensors_header import read_header
from mlx_video.errors import CheckpointError, MissingPartError

SHARD = re.compile(r"-(\d+)-of-(\d+)(?=\.\w+$)")
SPLIT_REST = "non_block.safetensors"
_SPLIT_BLOCK = re.compile(r"block_(\d+)\.safetensors")
# What stands behind the stem: a variant such as ".fp16", a shard's number, both or neither.
_ENDING = r"(?P<variant>\.[A-Za-z]\w*)?(-\d+-of-\d+)?\.safetensors"


def weight_files(
    folder: Path, stem: str = ORIGINAL_STEM, *, component: str = "transformer"
) -> tuple[Path, ...]:
    """Find the weight files of the component in a folder and check that none is missing.

    Of several variants of the weights the one without a name in its files is taken.

    Args:
        folder: where `<stem>*.safetensors` lie, with an index or without.
        stem: how the files' names begin.
        component: what messages call it.

    Returns:
        The files in shard order. With an index: those it names, after comparing it with their headers.

    Raises:
        CheckpointError: there are no weights, a shard is absent, or files do not belong together.

    Source: diffusers src/diffusers/utils/hub_utils.py, _add_variant.
    """
    variants = _find_variants(folder, stem)
    if not variants:
        raise MissingPartError(
            f"{folder}: no {component} found, expected {stem}.safetensors or its shards. "
            "Download the whole repository, or give the folder that holds these files."
        )
    if "" not in variants and len(variants) > 1:
        names = ", ".join(variant.removeprefix(".") for variant in sorted(variants))
        raise CheckpointError(
            f"{folder}: holds the {component} in several variants ({names}). Keep the files of one of them."
        )
    variant = "" if "" in variants else next(iter(variants))
    index = _index_file(folder, stem, variant)
    if index.is_file():
        return _check_one_variant(index, _files_of_index(index), variants[variant])
    files = variants[variant]
    if len(files) > 1 and not all(SHARD.search(path.name) for path in files):
        raise CheckpointError(
            f"{folder}: {len(files)} {component} files that are not shards of one another "
            f"({', '.join(path.name for path in files[:3])}). Keep one of them."
        )
    check_shards(files)
    return tuple(files)


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
    if not rest.is_file():
        return ()
    found = ((_SPLIT_BLOCK.fullmatch(path.name), path) for path in folder.iterdir())
    blocks = {int(match[1]): path for match, path in found if match}
    absent = sorted(set(range(max(blocks, default=0) + 1)) - blocks.keys())
    if absent:
        raise CheckpointError(
            f"{folder}: block_{absent[0]}.safetensors is absent ({len(blocks)} of "
            f"{max(blocks, default=0) + 1} blocks found). Fetch it again."
        )
    return (rest, *(blocks[number] for number in sorted(blocks)))


def match_weight_file(name: str, stem: str) -> re.Match[str] | None:
    """Match a weight file's name against the stem; its group "variant" is such as ".fp16", or None."""
    return re.fullmatch(re.escape(stem) + _ENDING, name)


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


def _find_variants(folder: Path, stem: str) -> dict[str, list[Path]]:
    """Variant, "" for the plain one → its files, sorted; one that has only an index has none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{stem}*")):
        match = match_weight_file(path.name, stem)
        if match and path.is_file():
            found.setdefault(match["variant"] or "", []).append(path)
    if _index_file(folder, stem, "").is_file():
        found.setdefault("", [])
    return found


def _check_one_variant(index: Path, named: tuple[Path, ...], own: Sequence[Path]) -> tuple[Path, ...]:
    strange = [path.name for path in named if path not in own]
    if strange:
        raise CheckpointError(
            f"{index}: names {strange[0]}, which is of another variant or another model. "
            "Keep the files of one download only."
        )
    return named


def _index_file(folder: Path, stem: str, variant: str) -> Path:
    return folder / f"{stem}.safetensors.index{variant}.json"


def check_shards(files: Sequence[Path]) -> None:
    """Check by their names that no shard of a component is missing; a lone file needs no number.

    Args:
        files: of one component, in one folder.

    Raises:
        CheckpointError: a shard is absent, or they are of different sets.
    """
    numbers = [(int(match[1]), int(match[2])) for path in files if (match := SHARD.search(path.name))]
    totals = {total for _, total in numbers}
    if len(totals) > 1:
        raise CheckpointError(
            f"{files[0].parent}: shards of different sets ({', '.join(f'of {n}' for n in sorted(totals))}). "
            "Keep the files of one download only."
        )
    for total in totals:
        absent = sorted(set(range(1, total + 1)) - {number for number, _ in numbers})
        if absent:
            raise CheckpointError(
                f"{files[0].parent}: shard {absent[0]} of {total} is absent ({len(numbers)} of {total} "
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
    _check_total(index, content.get("metadata"), data_bytes)
    return tuple(folder / name for name in names)


def _check_present(folder: Path, name: str, weight_map: Mapping[str, str]) -> None:
    if (folder / name).is_file():
        return
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


def _check_total(index: Path, metadata: object, data_bytes: int) -> None:
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if total is not None and total != data_bytes:
        raise CheckpointError(
            f"{index}: total_size is {total}, the shards hold {data_bytes} bytes. "
            "The dtypes are from another revision; fetch the shards and the index again."
        )
