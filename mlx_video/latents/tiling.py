"""Tiles of a frame, and how much more than its own part each stage of a VAE must see for an exact result.

Every 3×3 convolution mixes in one pixel around. At a tile's edge that pixel is missing, so each stage gets a
halo as wide as its convolutions reach, and what missing pixels spoiled is cut off before the next stage.
Where a tile ends with the frame there is no halo: the layers' own padding with zeros is right there. So tiles
need no blending, and they differ from whole frames by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

import mlx.core as mx

from mlx_video.models.vae.stream import Crop
from mlx_video.request import TilingMode

# Tiles smaller than this are mostly halo.
SMALLEST_SIDE = 8
# Pixels of a tile's side in the modes of mlx-video; None for whole frames. Its temporal tiles have no
# counterpart: frames always stream, and cutting time would change the video.
_MODE_PIXELS: dict[TilingMode, int | None] = {
    "none": None,
    "temporal": None,
    "conservative": 768,
    "default": 512,
    "spatial": 512,
    "aggressive": 256,
}


@dataclass(frozen=True, slots=True)
class Stage:
    """How far one stage of a VAE looks.

    Attributes:
        convolutions: 3×3 convolutions one after another, before any resampling.
        resampling: what it does to rows and columns at its end. Doubling is followed by one more 3×3
            convolution; halving takes from every second pixel on three.
    """

    convolutions: int
    resampling: Literal["doubles", "keeps", "halves"]

    def output_of(self, span: range) -> range:
        """The rows or columns that come out when `span` goes in."""
        if self.resampling == "doubles":
            return range(2 * span.start, 2 * span.stop)
        if self.resampling == "halves":
            return range(span.start // 2, span.stop // 2)
        return span

    def input_for(self, span: range, size: int) -> range:
        """The rows or columns that must go in so that `span` comes out exactly.

        Args:
            span: of the output.
            size: of the whole input.

        Returns:
            Part of range(size); begins and ends at even places where the stage halves.
        """
        start, stop = span.start, span.stop
        if self.resampling == "doubles":
            start, stop = (start - 1) // 2, (stop + 2) // 2
        elif self.resampling == "halves":
            start, stop = 2 * start, 2 * stop + 1
        start, stop = start - self.convolutions, stop + self.convolutions
        if self.resampling == "halves":
            start, stop = start - start % 2, stop + stop % 2
        return range(max(0, start), min(size, stop))


# Two convolutions in each residual block; the decoder's last stage ends with the head's, the encoder's first
# begins with conv1.
DECODER_STAGES = (*(Stage(6, "doubles"),) * 3, Stage(7, "keeps"))
ENCODER_STAGES = (Stage(5, "halves"), *(Stage(4, "halves"),) * 2, Stage(4, "keeps"))


@dataclass(frozen=True, slots=True)
class Route:
    """A tile's rows, or its columns, on their way through all stages.

    Attributes:
        core: what the tile is for, in latent cells.
        spans: what goes into each stage, in pixels of its resolution; at last what comes out.
        crops: for each stage, which part of its output is `spans`' next one.
    """

    core: range
    spans: tuple[range, ...]
    crops: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of latent cells, with what the stages need around it."""

    rows: Route
    columns: Route

    @property
    def crops(self) -> list[Crop]:
        """What to keep of each stage's output."""
        return list(zip(self.rows.crops, self.columns.crops, strict=True))

    def crop_input(self, packing: int = 1) -> Crop:
        """Halo that the first stage needs, in pixels of its resolution times `packing`."""
        rows, columns = (
            slice(packing * route.spans[0].start, packing * route.spans[0].stop)
            for route in (self.rows, self.columns)
        )
        return rows, columns


def split_evenly(length: int, longest: int) -> list[range]:
    """Cut range(length) into as few parts as can be that are not longer than asked, of even length.

    Raises:
        ValueError: a number is less than 1.
    """
    if length < 1 or longest < 1:
        raise ValueError(f"{length} cells in tiles of {longest}: both must be at least 1.")
    count = -(-length // longest)
    edges = [length * index // count for index in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def cut_tiles(stages: Sequence[Stage], height: int, width: int, side: int) -> list[list[Tile]]:
    """Cut frames into tiles.

    Args:
        stages: :data:`DECODER_STAGES` or :data:`ENCODER_STAGES`.
        height, width: of the frame, in latent cells.
        side: of a tile, at most, in latent cells.

    Returns:
        Rows of tiles, from the top and from the left; their cores cover every cell once.
    """
    return _cut(stages, height, width, side, side)


def share_tiles(height: int, width: int, side: int | None, count: int) -> list[list[Tile]]:
    """Cut frames into tiles that several processes decode.

    Args:
        height, width: of the frame, in latent cells.
        side: of a tile that fits in a process's memory, in latent cells; None where whole frames do.
        count: of the processes.

    Returns:
        Strips, one for each process at most, where they are no larger than the tile; else such tiles.
    """
    longest, shortest = max(height, width), min(height, width)
    strip = -(-longest // count)
    if side is not None and strip * shortest > side * side:
        return cut_tiles(DECODER_STAGES, height, width, min(side, strip))
    sides = (strip, shortest) if height >= width else (shortest, strip)
    return _cut(DECODER_STAGES, height, width, *sides)


def _cut(stages: Sequence[Stage], height: int, width: int, rows: int, columns: int) -> list[list[Tile]]:
    """Tiles of at most so many rows and columns."""
    across = [_route(stages, core, width) for core in split_evenly(width, columns)]
    down = (_route(stages, core, height) for core in split_evenly(height, rows))
    return [[Tile(row, column) for column in across] for row in down]


def _route(stages: Sequence[Stage], core: range, size: int) -> Route:
    """The route of a core in a frame of `size` latent cells."""
    sizes = list(_sizes(stages, size))
    scale = sizes[-1] // size
    spans = [range(core.start * scale, core.stop * scale)]
    for stage, stage_size in zip(reversed(stages), reversed(sizes[:-1]), strict=True):
        spans.insert(0, stage.input_for(spans[0], stage_size))
    crops = [
        slice(kept.start - out.start, kept.stop - out.start)
        for kept, out in zip(spans[1:], map(Stage.output_of, stages, spans), strict=False)
    ]
    return Route(core, tuple(spans), tuple(crops))


def _sizes(stages: Sequence[Stage], size: int) -> Iterator[int]:
    """Pixels before each stage, and after the last, of a frame of `size` latent cells."""
    # Halving stages begin at a multiple of the latents' resolution, doubling ones at it.
    whole = range(size * 2 ** sum(stage.resampling == "halves" for stage in stages))
    yield len(whole)
    for stage in stages:
        whole = stage.output_of(whole)
        yield len(whole)


def join_tiles(grid: Sequence[Sequence[Tile]], parts: Iterable[mx.array]) -> mx.array:
    """Put what each tile gave side by side.

    Args:
        grid: rows of tiles.
        parts: [F, h, w, C] of each tile, row after row.

    Returns:
        [F, H, W, C], evaluated.
    """
    parts = iter(parts)
    rows = [mx.concatenate(list(islice(parts, len(row))), axis=2) for row in grid]
    whole = mx.concatenate(rows, axis=1)
    mx.eval(whole)
    return whole


def tile_for_mode(mode: TilingMode, pixels_per_cell: int) -> int | None:
    """The tile of a mode that the user may ask for.

    Args:
        mode: any but "auto", which depends on the machine.
        pixels_per_cell: spatial stride of the VAE.

    Returns:
        Side of a tile in latent cells, None for whole frames.

    Raises:
        ValueError: the mode is "auto".
    """
    if mode == "auto":
        raise ValueError("the tile of --tiling auto follows from the machine's memory, not from the mode.")
    pixels = _MODE_PIXELS[mode]
    return None if pixels is None else pixels // pixels_per_cell


def tile_sides(height: int, width: int) -> list[int]:
    """Sides to choose a tile from: of all that cut a frame into as many rows and columns, the smallest.

    Args:
        height, width: of the frame, in latent cells.

    Returns:
        Sides in latent cells, falling, to 8 at the least. The first gives one tile.
    """
    longest = max(height, width)
    smallest = {
        (-(-height // side), -(-width // side)): side
        for side in range(longest, min(SMALLEST_SIDE, longest) - 1, -1)
    }
    return list(smallest.values())
