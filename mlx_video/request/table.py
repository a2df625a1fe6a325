"""Declared options as tables of the documentation, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_video.request.describe import mark_flags
from mlx_video.request.option import Option, options_of

_HEAD = "| option | default | meaning |\n|---|---|---|\n"


def option_table(*declared: type, group: str | None = None) -> str:
    """The flags of one command, their defaults and what they are for.

    Args:
        declared: dataclasses of options.
        group: heading of --help whose options are listed; None for all.

    Returns:
        Lines of Markdown, each with its end.
    """
    options = [each for one in declared for each in options_of(one).values()]
    return _HEAD + "".join(row for each in options if group in (None, each.group) for row in _rows(each))


def _rows(declared: Option) -> Iterator[str]:
    yield _row(declared.flag_with_value, declared.flag_default, declared.flag_help, declared)
    if declared.off_help and not declared.is_on_by_default:
        yield _row(declared.off_flag, "off", declared.off_help, None)


def _row(flag: str, default: str, help: str, declared: Option | None) -> str:
    is_code = declared is not None and not declared.default_text and _is_code(declared.command_value)
    cells = (f"`{flag}`", f"`{default}`" if is_code else mark_flags(default), mark_flags(help))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _is_code(value: Any) -> bool:
    return isinstance(value, str | Path)
