"""Names in a dataset's files that nothing knows, told with the nearest known one."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

ALMOST_THE_SAME = 0.8
"""Likeness from which on a further column counts as a misspelt one."""


def advise_known(name: str, known: Collection[str]) -> str:
    """Which known name was perhaps meant, as a sentence; all of them where none is near."""
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}."


def find_misspelt(name: str, known: Collection[str]) -> str | None:
    """The known name that a further column is almost equal to; None for one of its own."""
    near = get_close_matches(name.lower(), known, n=1, cutoff=ALMOST_THE_SAME)
    return near[0] if near else None
