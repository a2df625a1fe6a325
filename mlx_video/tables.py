"""Tables as a notebook shows them: HTML in which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CELL = 'style="text-align: left; vertical-align: top"'


def html_table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of texts, which may hold anything.

    Args:
        rows: cells from left to right.
        head: titles of the columns; none for a table without.
    """
    titles = "".join(f"<th {_CELL}>{escape(title)}</th>" for title in head)
    lines = [f"<tr>{titles}</tr>"] if head else []
    for row in rows:
        lines.append("<tr>" + "".join(f"<td {_CELL}>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def html_lines(texts: Iterable[str]) -> str:
    """Texts below each other."""
    return "".join(f"<div>{escape(text)}</div>" for text in texts)


def text_table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table for a terminal; every column is as wide as its widest cell."""
    cells = [*rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
