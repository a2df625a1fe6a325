"""Copies of one component's weights in one folder, and which of them is taken: told by names alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

# Some publishers write the precision behind the number: model-00001-of-00003-bf16.safetensors.
_BEHIND = r"[-._][A-Za-z][\w-]*"
SHARD = re.compile(rf"-(\d+)-of-(\d+)(?=(?:{_BEHIND})?\.\w+$)")
# What stands behind the stem: a variant such as ".fp16", a shard's number with or without a word behind it.
_ENDING = rf"(?P<variant>\.[A-Za-z]\w*)?(-\d+-of-\d+(?P<behind>{_BEHIND})?)?\.safetensors"


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One copy of a component's weights.

    Attributes:
        ending: what tells its files from those of other copies, such as ".fp16" or "-bf16"; "" for the plain.
        names: its files, sorted.
        lacks: the name of its first absent file; "" where all are there.
        is_named: whether the index names its files.
    """

    ending: str
    names: tuple[str, ...]
    lacks: str
    is_named: bool

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.ending.lstrip(".-_") or "plain"

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """Larger for the copy to take: one that is whole, that the index names, that is plain."""
        return not self.lacks, self.is_named, not self.ending


def find_ending(name: str, stem: str) -> str | None:
    """What tells a weight file from other copies of it; None for a name of something else.

    Args:
        name: of a file, without its folder.
        stem: how the names of the component's files begin.

    Source: diffusers src/diffusers/utils/hub_utils.py, _add_variant; Wan-AI/Wan2.2-TI2V-5B on ModelScope.
    """
    match = re.fullmatch(re.escape(stem) + _ENDING, name)
    return None if match is None else (match["variant"] or "") + (match["behind"] or "")


def index_name(stem: str, ending: str = "") -> str:
    """The name of the index of a component's shards, or of that of a copy with an ending of its own."""
    return f"{stem}.safetensors.index{ending}.json"


def find_sets(names: Collection[str], stem: str, named: Collection[str] = ()) -> list[WeightSet]:
    """The copies of a component's weights, the best first.

    Args:
        names: of the files in a folder.
        stem: how the names of the component's files begin.
        named: the files that the folder's index names.

    Returns:
        Copies of the same rank in alphabetical order of their endings.
    """
    by_ending: dict[str, list[str]] = {}
    for name in sorted(names):
        ending = find_ending(name, stem)
        if ending is not None:
            by_ending.setdefault(ending, []).append(name)
    sets = [_describe(ending, files, stem, named) for ending, files in sorted(by_ending.items())]
    return sorted(sets, key=lambda found: found.rank, reverse=True)


def find_absent_shard(names: Sequence[str]) -> str:
    """The name of the first shard that a set lacks by its numbers; "" where none is absent.

    Args:
        names: of one copy, or of a lone file; shards of different sets count as one set.
    """
    for name, (_, total) in _numbers(names).items():
        present = {number for number, other in _numbers(names).values() if other == total}
        # A name can state any total: what counts is how many files there are.
        absent = next(number for number in count(1) if number not in present)
        if absent <= total:
            return with_number(name, absent)
    return ""


def with_number(name: str, number: int) -> str:
    """The name of another shard of the same set."""
    return SHARD.sub(lambda match: f"-{number:0{len(match[1])}}-of-{match[2]}", name)


def describe_choice(sets: Sequence[WeightSet]) -> str:
    """Say which of several copies is taken, and what is wrong with the others.

    Args:
        sets: the best first, more than one.
    """
    first, *others = sets
    told = [f"{one.title}{f', which lacks {one.lacks}' if one.lacks else ''}" for one in others]
    reason = " as the index names them," if first.is_named and not others[0].lacks else ""
    return f"the {first.title} files are taken,{reason} not the others ({'; '.join(told)})"


def _describe(ending: str, files: Sequence[str], stem: str, named: Collection[str]) -> WeightSet:
    is_named = bool(named) and all(find_ending(name, stem) == ending for name in named)
    lacks = (
        next((name for name in sorted(named) if name not in files), "")
        if is_named
        else find_absent_shard(files)
    )
    return WeightSet(ending, tuple(files), lacks, is_named)


def _numbers(names: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """Name of a shard → its number and that of all."""
    return {name: (int(match[1]), int(match[2])) for name in names if (match := SHARD.search(name))}
