"""Resizing: the official interpolations to the last digits, and crops from the middle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.media.resize import (
    centre_crop,
    cover_lanczos,
    crop_to_aspect,
    resize_bicubic,
    resize_lanczos,
    to_unit_range,
)
from tests.parity.golden import Golden, assert_golden, fill

sides = st.integers(1, 60)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1)


# Recorded from torch.nn.functional.interpolate(mode="bicubic", align_corners=False).
SHRUNK = Golden(
    2880,
    -8.4741604e-3,
    4.1097819e-1,
    (-0.7059364, -0.5062543, 0.1521671, -0.2192722, -0.2743804, 0.03574251),
)
GROWN = Golden(
    12288,
    -7.7152522e-3,
    4.1618278e-1,
    (-0.7941757, -0.9461089, 1.104021, -0.6942367, -0.1377951, 0.3193496),
)


@pytest.mark.parametrize(("size", "expected"), [((24, 40), SHRUNK), ((64, 64), GROWN)])
def test_bicubic_gives_the_recorded_values(size: tuple[int, int], expected: Golden):
    pixels = fill((3, 37, 53), 1007).transpose(1, 2, 0)
    # 2e-6: float32 sums of 16 products in another order.
    assert_golden(channels_first(resize_bicubic(np.ascontiguousarray(pixels), *size)), expected, 2e-6)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((37, 53), (24, 40)),
        ((37, 53), (64, 64)),
        ((1000, 1003), (480, 832)),
        ((301, 200), (1111, 1203)),
        ((1001, 999), (997, 1000)),
        ((720, 1280), (464, 832)),
        ((601, 907), (224, 224)),
        ((2, 3), (64, 48)),
        ((1, 1), (16, 16)),
        ((40, 30), (40, 60)),
    ],
)
def test_bicubic_matches_torch(old: tuple[int, int], new: tuple[int, int]):
    torch = pytest.importorskip("torch")
    pixels = noise(*old)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None], size=new, mode="bicubic"
    )[0].permute(1, 2, 0)
    # 2e-6: float32 sums of 16 products in another order; the largest seen is 1.2e-6.
    assert np.abs(resize_bicubic(pixels, *new) - expected.numpy()).max() <= 2e-6


@pytest.mark.parity
def test_unit_range_is_torchs_bit_for_bit():
    torch = pytest.importorskip("torch")
    values = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(values).to(torch.float32).div(255).sub_(0.5).div_(0.5).numpy()
    np.testing.assert_array_equal(to_unit_range(values), expected)
    assert to_unit_range(values).dtype == np.float32


def test_unit_range_ends_at_minus_one_and_one():
    np.testing.assert_array_equal(to_unit_range(np.uint8([0, 255])), np.float32([-1, 1]))
    with pytest.raises(ValueError, match="pixels are float32, expected uint8"):
        to_unit_range(noise(2, 2))


@given(sides, sides, sides, sides)
@settings(deadline=None, max_examples=25)
def test_bicubic_keeps_a_single_colour(height: int, width: int, new_height: int, new_width: int):
    plain = np.full((height, width, 3), (-1.0, 0.25, 0.7), np.float32)
    resized = resize_bicubic(plain, new_height, new_width)
    assert resized.shape == (new_height, new_width, 3)
    assert resized.dtype == np.float32
    # The four weights sum to one but for float32's rounding, twice.
    np.testing.assert_allclose(resized, np.broadcast_to(plain[0, 0], resized.shape), atol=1e-6)


@given(sides, sides, sides, sides)
@settings(deadline=None, max_examples=25)
def test_bicubic_of_the_mirrored_picture_is_the_mirrored_result(
    height: int, width: int, new_height: int, new_width: int
):
    pixels = noise(height, width)
    mirrored = resize_bicubic(np.ascontiguousarray(pixels[::-1, ::-1]), new_height, new_width)
    # Places are rounded to float32: 60 pixels · 2^-24 of slope, twice, and the sums.
    np.testing.assert_allclose(mirrored[::-1, ::-1], resize_bicubic(pixels, new_height, new_width), atol=5e-5)


def test_bicubic_to_the_same_size_changes_nothing():
    pixels = noise(7, 9)
    np.testing.assert_array_equal(resize_bicubic(pixels, 7, 9), pixels)


def test_bicubic_does_not_average_when_it_shrinks():
    stripes = np.zeros((1, 80, 3), np.float32)
    stripes[:, ::2] = 1
    # Every new pixel looks at the same four of eight old ones: it sees stripes, not their grey.
    assert np.ptp(resize_bicubic(stripes, 1, 10)) < 1e-6
    shifted = resize_bicubic(np.ascontiguousarray(np.roll(stripes, 4, axis=1)), 1, 10)
    np.testing.assert_allclose(shifted, resize_bicubic(stripes, 1, 10), atol=1e-6)


def test_bicubic_leaves_its_input_alone():
    pixels = noise(5, 6)
    before = pixels.copy()
    resize_bicubic(pixels, 9, 4)
    np.testing.assert_array_equal(pixels, before)


def test_bicubic_refuses_bytes_and_sizes_of_nothing():
    with pytest.raises(ValueError, match=r"uint8 \[4, 4, 3\], expected float32"):
        resize_bicubic(picture(4, 4), 2, 2)
    with pytest.raises(ValueError, match="at least one pixel"):
        resize_bicubic(noise(4, 4), 0, 2)


def test_lanczos_averages_when_it_shrinks():
    stripes = np.zeros((16, 80, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_lanczos(stripes, 4, 10)
    assert small.shape == (4, 10, 3)
    assert np.abs(small[:, 1:-1].astype(int) - 128).max() <= 2


def test_centre_crop_leaves_the_larger_half_of_an_odd_rest_below_and_right():
    pixels = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    np.testing.assert_array_equal(centre_crop(pixels, 2, 3), pixels[1:3, 1:4])
    np.testing.assert_array_equal(centre_crop(pixels, 5, 6), pixels)


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match=r"7x2 cannot be cut from \[5, 6, 3\]"):
        centre_crop(picture(5, 6), 2, 7)


@pytest.mark.parametrize(
    ("old", "ratio", "new"),
    [
        ((100, 200), (1, 1), (100, 100)),
        ((200, 100), (464, 832), (56, 100)),
        ((720, 1280), (9, 16), (720, 1280)),
        ((10, 1000), (1, 1), (10, 10)),
        ((3, 4), (1, 1000), (1, 4)),
    ],
)
def test_the_largest_piece_of_a_shape_is_cut_out(old, ratio, new):
    assert crop_to_aspect(picture(*old), *ratio).shape[:2] == new


@given(sides, sides, sides, sides)
@settings(deadline=None, max_examples=25)
def test_a_piece_of_a_shape_touches_two_opposite_edges_and_misses_the_shape_by_half_a_pixel_at_most(
    old_height: int, old_width: int, height: int, width: int
):
    piece_height, piece_width = crop_to_aspect(picture(old_height, old_width), height, width).shape[:2]
    assert piece_height == old_height or piece_width == old_width
    if min(piece_height, piece_width) > 1:
        misses = piece_height - piece_width * height / width, piece_width - piece_height * width / height
        assert min(abs(miss) for miss in misses) <= 0.5


@given(sides, sides, sides, sides)
@settings(deadline=None, max_examples=25)
def test_covering_gives_the_exact_size(old_height: int, old_width: int, height: int, width: int):
    covered = cover_lanczos(picture(old_height, old_width), height, width)
    assert covered.shape == (height, width, 3)
    assert covered.dtype == np.uint8


def test_covering_keeps_shapes_and_cuts_the_longer_side():
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255  # a square in the middle
    # The filter reaches two pixels far: at the cut it sees a little of what is cut away.
    assert cover_lanczos(wide, 20, 20)[:, 2:-2].min() >= 250


@pytest.mark.parity
def test_covering_matches_the_official_steps_of_pillow():
    from PIL import Image

    pixels, (height, width) = picture(62, 100), (48, 96)
    scale = max(width / 100, height / 62)
    resized = Image.fromarray(pixels).resize((round(100 * scale), round(62 * scale)), Image.LANCZOS)
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    expected = resized.crop((left, top, left + width, top + height))
    np.testing.assert_array_equal(cover_lanczos(pixels, height, width), np.asarray(expected))
