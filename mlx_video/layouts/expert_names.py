"""Which of two experts a file holds, as far as its name tells."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath

from mlx_video.layouts.components import Expert

# A lone "high" may mean something else; with "noise" behind it the file is one of two.
_SURE_EXPERT = re.compile(r"(?i)(high|low)[-_ .]?noise")
_SINGLE_LETTER = r"(?<=[_-]){letter}(?=[_-]|$)"
# What may tell an expert but is found in other names too: i2vHighV30, -LN-.
_HINT = "|".join(
    (
        r"(?<![A-Za-z])(?i:{word})(?![a-z])",
        r"{title}(?![a-z])",
        r"(?i:{word}[ _-]?noise)",
        r"(?<![A-Za-z]){short}(?![A-Za-z])",
    )
)
_HINTS = {
    "high_noise": re.compile(_HINT.format(word="high", title="High", short="HN?")),
    "low_noise": re.compile(_HINT.format(word="low", title="Low", short="LN?")),
}


def guess_expert_of_name(name: str) -> Expert | None:
    """Which expert a name is of, that of a file or folder without suffix; None if it does not tell."""
    is_high, is_low = _names(name, "high", "H"), _names(name, "low", "L")
    if is_high == is_low:
        return None
    return "high_noise" if is_high else "low_noise"


def guess_expert_of_file(path: PurePath) -> Expert | None:
    """Which expert a transformer's file holds, by its name or else its folder's; None if neither tells."""
    return guess_expert_of_name(path.stem) or guess_expert_of_name(path.parent.name)


def find_sure_expert(path: PurePath) -> Expert | None:
    """Which expert a transformer's file holds; None where its name and its folder's leave any doubt."""
    is_sure = any(_SURE_EXPERT.search(name) for name in (path.name, path.parent.name))
    return guess_expert_of_file(path) if is_sure else None


def propose_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Files that may be the two experts of one model, by hints that are too weak to rely on.

    Args:
        names: of transformers, each with the folders that it lies in.

    Returns:
        Pairs of a high-noise and a low-noise file whose names differ in nothing else; or else the only such
        file of each kind.
    """
    kinds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        expert = _find_hint(PurePath(name))
        if expert:
            kinds[_without_hints(name)][expert].append(name)
    pairs = [
        (kind["high_noise"][0], kind["low_noise"][0])
        for kind in kinds.values()
        if len(kind["high_noise"]) == len(kind["low_noise"]) == 1
    ]
    if pairs:
        return pairs
    high, low = ([name for kind in kinds.values() for name in kind[expert]] for expert in _HINTS)
    return [(high[0], low[0])] if len(high) == len(low) == 1 else []


def _find_hint(path: PurePath) -> Expert | None:
    for name in (path.stem, path.parent.name):
        is_high, is_low = (bool(hint.search(name)) for hint in _HINTS.values())
        if is_high != is_low:
            return "high_noise" if is_high else "low_noise"
    return None


def _without_hints(name: str) -> str:
    for hint in _HINTS.values():
        name = hint.sub("", name)
    return re.sub(r"[^a-z0-9/]", "", name.lower().replace("noise", ""))


def _names(name: str, word: str, letter: str) -> bool:
    has_word = re.search(rf"(?i)(?<![a-z]){word}(?![a-z])|{word}[ _-]?noise", name)
    return bool(has_word or re.search(_SINGLE_LETTER.format(letter=letter), name))
