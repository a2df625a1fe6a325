"""A picture of what a training would see: frames of examples as they are cut, with captions and controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlx_video.files.whole_file import check_file, written_whole
from mlx_video.quoting import escaped

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

MOST_SHOWN = 48
"""Examples on a sheet; of more every n-th is drawn."""
FRAMES_SHOWN = 4
_WIDTH, _NARROWEST, _BOX, _GAP, _LINE = 1400, 230, (160, 112), 6, 15
_INK, _FAINT, _ALARM, _PAPER = (20, 20, 20), (110, 110, 110), (190, 20, 20), (250, 250, 250)


@dataclass(frozen=True, slots=True)
class Cell:
    """An example on the sheet.

    Attributes:
        title: its clip, stretch and size.
        caption: None where it is missing.
        strips: what they show → frames, uint8 [H, W, 3]; "" for the clip itself.
    """

    title: str
    caption: str | None
    strips: Mapping[str, Sequence[np.ndarray]]


def choose_evenly(count: int, most: int) -> list[int]:
    """Numbers below `count`, the first and the last among them, `most` at most."""
    if count <= most:
        return [*range(count)]
    return [number * (count - 1) // (most - 1) for number in range(most)]


def draw_cell(cell: Cell) -> Picture:
    """Draw an example: strips of frames below each other, and two lines of text."""
    from PIL import Image, ImageDraw, ImageFont

    strips = {
        name: [_shrink(frames[number]) for number in choose_evenly(len(frames), FRAMES_SHOWN)]
        for name, frames in cell.strips.items()
    }
    longest = max(sum(frame.width + _GAP for frame in strip) for strip in strips.values())
    width = max(longest, _NARROWEST)
    picture = Image.new("RGB", (width, len(strips) * (_BOX[1] + _GAP) + 2 * _LINE + _GAP), _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.font = ImageFont.load_default(12)
    top = 0
    for name, strip in strips.items():
        left = 0
        for frame in strip:
            picture.paste(frame, (left, top + (_BOX[1] - frame.height) // 2))
            left += frame.width + _GAP
        if name:
            _write_label(pen, name, top)
        top += _BOX[1] + _GAP
    _write(pen, (0, top), cell.title, _FAINT, width - _GAP)
    caption, ink = ("no caption", _ALARM) if cell.caption is None else (cell.caption, _INK)
    _write(pen, (0, top + _LINE), caption, ink, width - _GAP)
    return picture


def _shrink(frame: np.ndarray) -> Picture:
    from PIL import Image

    picture = Image.fromarray(frame)
    scale = min(_BOX[0] / picture.width, _BOX[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def _write_label(pen: ImageDraw, name: str, top: int) -> None:
    left, upper, right, lower = pen.textbbox((3, top + 3), name)
    pen.rectangle((left - 3, upper - 3, right + 3, lower + 3), fill=_PAPER)
    pen.text((3, top + 3), name, fill=_INK)


def _write(pen: ImageDraw, place: tuple[int, int], text: str, ink: tuple[int, int, int], width: int) -> None:
    line = " ".join(escaped(text).split())
    if pen.textlength(line) > width:
        while line and pen.textlength(f"{line}…") > width:
            line = line[: -max(1, len(line) // 20)]
        line = f"{line}…"
    pen.text(place, line, fill=ink)


def write_sheet(path: Path, cells: Sequence[Picture]) -> None:
    """Write drawn examples, from left to right and from top to bottom, as a PNG.

    Raises:
        MediaError: the file cannot be written.
    """
    from PIL import Image

    check_file(path)
    places = [*_place(cells)]
    height = max((top + cell.height for cell, (_, top) in zip(cells, places, strict=True)), default=0)
    sheet = Image.new("RGB", (_WIDTH, height + 2 * _GAP), _PAPER)
    for cell, (left, top) in zip(cells, places, strict=True):
        sheet.paste(cell, (left, top))
    with written_whole(path) as temporary:
        sheet.save(temporary, "PNG")


def _place(cells: Sequence[Picture]) -> Iterator[tuple[int, int]]:
    left, top, row_height = _GAP, 2 * _GAP, 0
    for cell in cells:
        if left > _GAP and left + cell.width > _WIDTH:
            left, top, row_height = _GAP, top + row_height + _GAP, 0
        yield left, top
        left += cell.width + _GAP
        row_height = max(row_height, cell.height)
