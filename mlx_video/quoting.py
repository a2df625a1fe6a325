"""What files and users spell, made fit for a message: no control codes, no names of a megabyte."""

from __future__ import annotations

import re
import unicodedata

from mlx_video.limits import LONGEST_LINE, LONGEST_MESSAGE, LONGEST_WORD

_WORD = re.compile(rf"\S{{{LONGEST_WORD},}}")
# A terminal obeys these, or shows text in another order than it has: escapes, overrides, lone surrogates.
_OBEYED = ("Cc", "Cf", "Cs")
_KEPT = "\n\t\u200d\ufe0f"  # those of joined and coloured signs


def printable(text: str) -> str:
    """A text as a message may quote it.

    Args:
        text: with whatever a file or a user put into it.

    Returns:
        The text with control codes written out, and the middle of what is too long left out.
    """
    words = _WORD.sub(lambda word: _shorten(word[0], LONGEST_WORD), escaped(text))
    lines = (_shorten(line, LONGEST_LINE) for line in words.split("\n"))
    return _shorten("\n".join(lines), LONGEST_MESSAGE)


def escaped(text: str) -> str:
    """A text with control codes written out, of whatever length."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _OBEYED:
        return character
    return character.encode("unicode_escape").decode("ascii")


def _shorten(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    begin, end = most // 2, most // 4
    return f"{text[:begin]}… ({len(text):,} characters) …{text[-end:]}"
