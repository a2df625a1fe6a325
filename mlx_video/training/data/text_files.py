"""Text files of a dataset: read within limits, as UTF-8, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mlx_video.errors import CheckpointError, DatasetError
from mlx_video.files.file_bytes import read_text_file
from mlx_video.limits import LARGEST_CAPTION_BYTES, LARGEST_TEXT_BYTES

Value = TypeVar("Value")


def read_text(path: Path, most_bytes: int = LARGEST_TEXT_BYTES) -> str:
    """The content of a text file, without the mark that some editors put before it.

    Raises:
        DatasetError: it is missing, too large, no plain file, or no UTF-8.
    """
    try:
        return read_text_file(path, most_bytes).decode("utf-8-sig")
    except CheckpointError as error:
        raise DatasetError(str(error)) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: is no UTF-8 text at byte {error.start:,}. Save it with this encoding."
        ) from error


def read_caption(path: Path) -> str:
    """A clip's caption, without blanks around it; raises as :func:`read_text`."""
    return read_text(path, LARGEST_CAPTION_BYTES).strip()


def parse_text(path: Path, what: str, parse: Callable[[], Value]) -> Value:
    """Let a parser work on a file's text.

    Args:
        path: of the file, for messages.
        what: the text should be.
        parse: does the work.

    Raises:
        DatasetError: it fails, or runs out of its depth.
    """
    try:
        return parse()
    except RecursionError as error:
        raise DatasetError(f"{path}: is nested too deeply for {what}. Is it another file?") from error
    except ValueError as error:  # of JSON and TOML alike
        raise DatasetError(f"{path}: is no {what} ({error}). Correct it there.") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file, each with its place for messages; empty lines count for nothing.

    Raises:
        DatasetError: a line is no JSON object; others as :func:`read_text`.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield f"{path} line {number}", _object_of(path, f"JSON object in line {number}", line)


def read_json_list(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSON file that holds a list of them; as :func:`read_json_lines`."""
    text = read_text(path)
    rows = parse_text(path, "JSON", lambda: json.loads(text))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{path}: is no list of JSON objects. Write one object for each clip.")
    for number, row in enumerate(rows, 1):
        yield f"{path} entry {number}", row


def _object_of(path: Path, what: str, line: str) -> dict[str, Any]:
    value = parse_text(path, what, lambda: json.loads(line))
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: is no {what}. Correct it there.")
    return value
