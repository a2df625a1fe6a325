"""DiffSynth-Studio's list of clips: CSV, JSONL or JSON with a column for each input.

Source: modelscope/DiffSynth-Studio diffsynth/core/data/unified_dataset.py, UnifiedDataset.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_video.errors import DatasetError
from mlx_video.training.data.clips import Clip, Given
from mlx_video.training.data.finished_latents import with_told
from mlx_video.training.data.input_names import NUMBERS, OPTION_OF, WORDS
from mlx_video.training.data.known_names import advise_known, find_misspelt
from mlx_video.training.data.listed_files import PICTURE_SUFFIXES
from mlx_video.training.data.listed_runs import RUN_COLUMNS, take_run
from mlx_video.training.data.text_files import read_json_lines, read_json_list, read_text

CLIP_COLUMNS = ("video", "image")
PROMPT = "prompt"
KNOWN = (*CLIP_COLUMNS, PROMPT, *OPTION_OF, *RUN_COLUMNS)
LIST_SUFFIXES = (".csv", ".jsonl", ".json")

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a list, each with its place for messages.

    Raises:
        DatasetError: the file cannot be read as what its suffix says.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        yield from _read_csv(path)
    else:
        yield from (read_json_lines if suffix == ".jsonl" else read_json_list)(path)


def _read_csv(path: Path) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        columns = next(reader, None)
        if not columns:
            raise DatasetError(f"{path}: is empty. Its first line names the columns: video,prompt.")
        for cells in reader:
            place = f"{path} line {reader.line_num}"
            if len(cells) > len(columns):
                raise DatasetError(
                    f"{place}: {len(cells)} cells, {len(columns)} columns. Quote prompts with commas."
                )
            if any(cells):
                yield place, {name.strip(): cell for name, cell in zip(columns, cells, strict=False) if cell}
    except csv.Error as error:
        raise DatasetError(f"{path} line {reader.line_num}: {error}. Correct it there.") from error


def read_columns(path: Path, base: Path) -> tuple[tuple[Clip, ...], tuple[str, ...]]:
    """Clips of a list.

    Args:
        path: of the list.
        base: at which relative paths in it start.

    Returns:
        The clips, and the columns that nothing knows.

    Raises:
        DatasetError: a row lacks a clip, a cell is wrong, or a column is almost a known one.
    """
    clips: list[Clip] = []
    unknown: dict[str, None] = {}
    for place, row in read_rows(path):
        for column in row:
            if column not in KNOWN and column not in unknown:
                if near := find_misspelt(str(column), KNOWN):
                    raise DatasetError(f"{place}: unknown column {column}. Did you mean {near}?")
                unknown[column] = None
        clips.append(_read_clip(place, row, base))
    return tuple(clips), tuple(unknown)


def _read_clip(place: str, row: Row, base: Path) -> Clip:
    column = next((name for name in CLIP_COLUMNS if row.get(name)), None)
    if column is None:
        columns = ", ".join(map(str, row)) or "nothing"
        raise DatasetError(f"{place}: neither video nor image is there, but {columns}. Name the clip.")
    path, prompt = _path(place, column, row[column], base), row.get(PROMPT)
    if prompt is not None and not isinstance(prompt, str):
        raise DatasetError(f"{place}: prompt must be a text.")
    inputs = {
        option: _read_cell(place, name, row[name], base)
        for name, option in OPTION_OF.items()
        if row.get(name) not in (None, "")
    }
    is_picture = path.suffix.lower() in PICTURE_SUFFIXES
    return with_told(Clip(path, prompt, place, is_picture, inputs, take_run(row)))


def _read_cell(place: str, name: str, cell: Any, base: Path) -> Given:
    if name in NUMBERS:
        try:
            return float(cell)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{place}: {name} = {cell!r} must be a number.") from error
    if name in WORDS:
        return str(cell)
    if isinstance(cell, list):
        paths = tuple(_path(place, name, each, base) for each in cell)
        if not paths:
            raise DatasetError(f"{place}: {name} is an empty list. Leave it out.")
        return paths if name == "vace_reference_image" else paths[0]
    path = _path(place, name, cell, base)
    return (path,) if name == "vace_reference_image" else path


def _path(place: str, name: str, cell: Any, base: Path) -> Path:
    if not isinstance(cell, str) or not cell:
        raise DatasetError(f"{place}: {name} = {cell!r} must be a path.")
    if cell.startswith(("http://", "https://")):
        raise DatasetError(f"{place}: {name} = {cell}: addresses are not read. Download the file first.")
    return base / Path(cell).expanduser()


def advise_columns(columns: tuple[str, ...], path: Path) -> str:
    """Say which columns decide nothing."""
    return f"{path}: columns that decide nothing: {', '.join(columns)}. {advise_known('', KNOWN)}"
