"""Frames fit the video's size: covering it, inside it or stretched, and masks lie over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.media.fit import fit_frame, fit_mask, letterbox_character, letterbox_reference

sides = st.integers(1, 40)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(sides, sides, sides, sides, st.sampled_from(["cover", "letterbox", "stretch"]))
@settings(deadline=None, max_examples=60)
def test_every_size_becomes_every_other(old_height, old_width, height, width, fit):
    pixels = picture(old_height, old_width)
    assert fit_frame(pixels, height, width, fit).shape == (height, width, 3)
    assert fit_mask(pixels, height, width, fit).shape == (height, width)
    assert letterbox_reference(pixels, height, width).shape == (height, width, 3)


def test_a_frame_of_the_right_size_keeps_every_byte():
    pixels = picture(16, 32)
    for fit in ("cover", "letterbox", "stretch"):
        np.testing.assert_array_equal(fit_frame(pixels, 16, 32, fit), pixels)


def test_covering_cuts_both_sides_alike():
    pixels = np.zeros((20, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    assert (fit_frame(pixels, 20, 40) == 200).all()
    assert not fit_frame(pixels, 20, 60)[:, [*range(10), *range(50, 60)]].any()


def test_a_letterbox_shows_the_whole_frame_between_black_bars():
    fitted = fit_frame(np.full((10, 40, 3), 200, np.uint8), 20, 40, "letterbox")
    assert (fitted[5:15] == 200).all()
    assert not fitted[:5].any()
    assert not fitted[15:].any()


def test_a_stretched_frame_has_no_bars():
    assert (fit_frame(np.full((10, 40, 3), 200, np.uint8), 20, 40, "stretch") == 200).all()


def test_of_equal_ratios_the_width_decides_as_in_the_official_code():
    """8 / 49 times 49 is a little less than 8, which leaves seven rows."""
    shown = letterbox_character(np.full((49, 49, 3), 200, np.uint8), 8, 8)
    assert [bool(row.any()) for row in shown] == [True] * 7 + [False]


def test_bars_beside_a_mask_are_white():
    mask = fit_mask(np.zeros((10, 40, 3), np.uint8), 20, 40, "letterbox")
    assert not mask[5:15].any()
    assert mask[:5].all()
    assert mask[15:].all()


def test_a_mask_is_black_or_white_from_half_brightness_on():
    levels = np.uint8([0, 127, 128, 255])
    mask = fit_mask(np.broadcast_to(levels[None, :, None], (1, 4, 3)), 1, 4)
    assert mask.tolist() == [[False, False, True, True]]
    # A shrunk pixel is white where half of what it shows is.
    column = np.zeros((8, 8, 3), np.uint8)
    column[:, 3:] = 255
    assert fit_mask(column, 2, 2).tolist() == [[False, True]] * 2


def test_a_mask_stays_over_its_frame():
    pixels = np.zeros((90, 160, 3), np.uint8)
    pixels[30:60, 50:100] = 255
    for fit in ("cover", "letterbox", "stretch"):
        bright = fit_frame(pixels, 48, 48, fit).mean(2) > 127
        inside = np.zeros((48, 48), bool)
        inside[16:32] = True  # away from bars
        assert (bright != fit_mask(pixels, 48, 48, fit))[inside].mean() < 0.04


def test_a_reference_stands_whole_on_a_white_page():
    page = letterbox_reference(np.zeros((30, 20, 3), np.uint8), 16, 32)
    assert (page[:, 11:21] == -1).all()  # int(20 · 16 / 30) = 10 columns, at (32 - 10) // 2
    assert (page[:, :11] == 1).all()
    assert (page[:, 21:] == 1).all()


@pytest.mark.parity
@pytest.mark.parametrize(("old", "new"), [((37, 53), (16, 22)), ((12, 20), (48, 80)), ((64, 48), (33, 25))])
def test_a_reference_is_resized_as_torch_does(old, new):
    torch = pytest.importorskip("torch")
    pixels = picture(*old)
    scale = min(new[0] / old[0], new[1] / old[1])
    rows, columns = int(old[0] * scale), int(old[1] * scale)
    values = torch.tensor(pixels).permute(2, 0, 1)[None] / 255 * 2 - 1
    expected = torch.nn.functional.interpolate(values, (rows, columns), mode="bilinear", align_corners=False)[
        0
    ].permute(1, 2, 0)
    page = letterbox_reference(pixels, *new)
    top, left = (new[0] - rows) // 2, (new[1] - columns) // 2
    found = page[top : top + rows, left : left + columns]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize(("old", "new"), [((37, 53), (16, 22)), ((12, 20), (48, 80))])
def test_covering_is_within_a_level_of_the_official_resizing(old, new):
    torch = pytest.importorskip("torch")
    pixels = picture(*old)
    scale = max(new[0] / old[0], new[1] / old[1])
    size = round(old[0] * scale), round(old[1] * scale)
    resized = (
        torch.nn.functional.interpolate(
            torch.tensor(pixels).permute(2, 0, 1)[None], size, mode="bicubic", antialias=True
        )[0]
        .permute(1, 2, 0)
        .numpy()
    )
    top, left = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2
    expected = resized[top : top + new[0], left : left + new[1]]
    assert np.abs(fit_frame(pixels, *new).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((10, 30), (4, 12), (0, 24)), ((40, 20), (0, 16), (8, 16)), ((7, 9), (0, 16), (2, 22))],
)
def test_a_character_is_shown_whole_between_black_bars(size, rows, columns):
    # Source of the places: Wan2.2 wan/animate.py, WanAnimate.padding_resize.
    page = letterbox_character(np.full((*size, 3), 200, np.uint8), 16, 24)
    expected = np.zeros((16, 24, 3), np.uint8)
    expected[slice(*rows), slice(*columns)] = 200
    assert np.array_equal(page, expected)


def test_a_character_of_the_right_size_keeps_every_byte():
    assert np.array_equal(letterbox_character(picture(16, 24), 16, 24), picture(16, 24))
