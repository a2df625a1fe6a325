"""Which of two experts a file holds, as far as its name tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

Expert = Literal["high_noise", "low_noise"]

_SINGLE_LETTER = r"(?<=[_-]){letter}(?=[_-]|$)"


def guess_expert_of_name(name: str) -> Expert | None:
    """Which expert a name is of, that of a file or folder without suffix; None if it does not tell."""
    is_high, is_low = _names(name, "high", "H"), _names(name, "low", "L")
    if is_high == is_low:
        return None
    return "high_noise" if is_high else "low_noise"


def guess_expert_of_file(path: Path) -> Expert | None:
    """Which expert a transformer's file holds, by its name or else its folder's; None if neither tells."""
    return guess_expert_of_name(path.stem) or guess_expert_of_name(path.parent.name)


def _names(name: str, word: str, letter: str) -> bool:
    has_word = re.search(rf"(?i)(?<![a-z]){word}(?![a-z])|{word}[ _-]?noise", name)
    return bool(has_word or re.search(_SINGLE_LETTER.format(letter=letter), name))
