from __future__ import annotations

from itertools import chain
from typing import get_args

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.latents.tiling import (
    DECODER_STAGES,
    ENCODER_STAGES,
    cut_tiles,
    join_tiles,
    share_tiles,
    split_evenly,
    tile_for_mode,
    tile_sides,
)
from mlx_video.request import TilingMode

sides = st.integers(1, 40)
halves = pytest.mark.parametrize("stages", [DECODER_STAGES, ENCODER_STAGES], ids=["decoder", "encoder"])


@settings(deadline=None, max_examples=25)
@given(length=st.integers(1, 200), longest=st.integers(1, 220))
def test_parts_cover_a_length_once_and_differ_by_one_at_most(length, longest):
    parts = split_evenly(length, longest)
    assert list(chain(*parts)) == list(range(length))
    sizes = {len(part) for part in parts}
    assert max(sizes) <= longest
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == 1 or (len(parts) - 1) * longest < length  # no fewer would do


def test_tiles_of_no_side_are_refused():
    with pytest.raises(ValueError, match="tiles of 0: both must be at least 1"):
        cut_tiles(DECODER_STAGES, 4, 4, 0)


@halves
@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, side=sides)
def test_cores_cover_every_cell_once(stages, height, width, side):
    cells = [
        (row, column)
        for tile in chain(*cut_tiles(stages, height, width, side))
        for row in tile.rows.core
        for column in tile.columns.core
    ]
    assert sorted(cells) == [(row, column) for row in range(height) for column in range(width)]


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, side=st.none() | sides, count=st.integers(1, 5))
def test_shared_tiles_cover_every_cell_once_and_are_no_larger_than_asked(height, width, side, count):
    tiles = list(chain(*share_tiles(height, width, side, count)))
    cells = [(row, column) for tile in tiles for row in tile.rows.core for column in tile.columns.core]
    assert sorted(cells) == [(row, column) for row in range(height) for column in range(width)]
    if side is None:
        assert len(tiles) <= count
    else:
        assert max(len(tile.rows.core) * len(tile.columns.core) for tile in tiles) <= side * side


@halves
@settings(deadline=None, max_examples=25)
@given(size=sides, side=sides)
def test_crops_leave_of_each_stages_output_what_the_next_one_needs(stages, size, side):
    for tile in chain(*cut_tiles(stages, size, 1, side)):
        for stage, given_span, needed, crop in zip(
            stages, tile.rows.spans, tile.rows.spans[1:], tile.rows.crops, strict=False
        ):
            assert stage.output_of(given_span)[crop] == needed


def decoder_reach(row: int, size: int) -> set[int]:
    """Latent rows that an output row depends on behind the middle, found by following every convolution."""
    rows, height = {row}, 8 * size

    def spread(times: int) -> None:
        for _ in range(times):
            rows.update({r + 1 for r in rows} | {r - 1 for r in rows})
            rows.intersection_update(range(height))

    spread(7)
    for _ in range(3):
        spread(1)
        rows = {r // 2 for r in rows}
        height //= 2
        spread(6)
    return rows


def encoder_reach(row: int, size: int) -> set[int]:
    """Pixel rows that a row of features depends on before the middle."""
    rows, height = {row}, size

    def spread(times: int) -> None:
        for _ in range(times):
            rows.update({r + 1 for r in rows} | {r - 1 for r in rows})
            rows.intersection_update(range(height))

    spread(4)
    for convolutions in (4, 4, 5):
        height *= 2
        rows = {2 * r + tap for r in rows for tap in range(3)} & set(range(height))
        spread(convolutions)
    return rows


@pytest.mark.parametrize(("size", "side"), [(40, 7), (31, 31), (29, 4)])
def test_a_tile_is_given_all_that_its_part_depends_on_and_hardly_more(size, side):
    for tile in chain(*cut_tiles(DECODER_STAGES, size, 1, side)):
        route = tile.rows
        needed = set().union(*(decoder_reach(row, size) for row in route.spans[-1]))
        assert set(route.spans[0]) == needed
    for tile in chain(*cut_tiles(ENCODER_STAGES, size, 1, side)):
        route = tile.rows
        needed = set().union(*(encoder_reach(row, size) for row in route.spans[-1]))
        # Begins and ends at even pixels at every resolution, for the sake of one pixel each.
        assert needed <= set(route.spans[0])
        assert len(route.spans[0]) - len(needed) <= 2 * (1 + 2 + 4)


def test_the_halo_of_a_decoder_tile_is_thirteen_cells():
    tile = cut_tiles(DECODER_STAGES, 100, 1, 10)[5][0]
    assert tile.rows.core == range(50, 60)
    assert tile.rows.spans == (
        range(37, 73),
        range(88, 132),
        range(190, 250),
        range(393, 487),
        range(400, 480),
    )


def test_joined_tiles_stand_where_they_were_cut():
    whole = mx.arange(2 * 5 * 7 * 3).reshape(2, 5, 7, 3)
    grid = cut_tiles(DECODER_STAGES, 5, 7, 3)
    parts = [
        whole[:, tile.rows.core.start : tile.rows.core.stop, tile.columns.core.start : tile.columns.core.stop]
        for tile in chain(*grid)
    ]
    assert len(parts) == 6
    assert mx.array_equal(join_tiles(grid, parts), whole)


# Modes


@pytest.mark.parametrize(
    ("mode", "wan21", "wan22"),
    [
        ("none", None, None),
        ("temporal", None, None),
        ("conservative", 96, 48),
        ("default", 64, 32),
        ("spatial", 64, 32),
        ("aggressive", 32, 16),
    ],
)
def test_modes_are_sides_in_cells(mode, wan21, wan22):
    assert (tile_for_mode(mode, 8), tile_for_mode(mode, 16)) == (wan21, wan22)


def test_every_mode_but_auto_has_a_tile():
    for mode in set(get_args(TilingMode)) - {"auto"}:
        tile_for_mode(mode, 8)
    with pytest.raises(ValueError, match="the machine's memory"):
        tile_for_mode("auto", 8)


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 100), width=st.integers(1, 100))
def test_sides_to_choose_from_cut_differently_and_leave_none_out(height, width):
    def cut(side: int) -> tuple[int, int]:
        return -(-height // side), -(-width // side)

    found = list(tile_sides(height, width))
    assert cut(found[0]) == (1, 1)
    assert found == sorted(found, reverse=True)
    cuts = [cut(side) for side in found]
    assert len(set(cuts)) == len(cuts)
    assert set(cuts) == {cut(side) for side in range(min(8, max(height, width)), 101)}
