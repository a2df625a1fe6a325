"""Edges are those that OpenCV finds, pixel for pixel."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from mlx_video.media.control.canny import canny_edges
from tests.parity.golden import uniform


def noise() -> np.ndarray:
    return (uniform(60 * 90, 5) * 256).astype(np.uint8).reshape(60, 90)


def shapes() -> np.ndarray:
    y, x = np.mgrid[:60, :90]
    levels = 128 + 60 * np.sin(x / 5) * np.cos(y / 7) + 50 * ((x - 45) ** 2 + (y - 30) ** 2 < 400)
    return np.clip(levels, 0, 255).astype(np.uint8)


# Recorded from cv2.Canny 4 (aperture 3, no L2 norm): white pixels, and the CRC-32 of their packed bits.
RECORDED = [
    (noise, 100, 200, 2007, 269655142),
    (noise, 400, 600, 1526, 543853212),
    (shapes, 100, 200, 141, 2826451057),
    (shapes, 30, 60, 833, 2489597343),
    (shapes, 400, 600, 0, 2134453762),
]


@pytest.mark.parametrize(("picture", "low", "high", "count", "checksum"), RECORDED)
def test_edges_are_the_recorded_ones(picture, low, high, count, checksum):
    edges = canny_edges(np.repeat(picture()[..., None], 3, axis=2), low, high)
    assert edges.dtype == np.uint8
    assert {*np.unique(edges).tolist()} <= {0, 255}
    assert (edges == edges[..., :1]).all()
    found = edges[..., 0] > 0
    assert found.sum() == count
    assert zlib.crc32(np.packbits(found).tobytes()) == checksum


def test_a_weak_line_is_drawn_only_where_it_joins_a_strong_one():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[10:] = 40  # a step of 4 · 40
    assert not canny_edges(pixels, 100, 200).any()
    pixels[10:, :5] = 90
    rows = canny_edges(pixels, 100, 200)[..., 0].any(1)
    assert rows.sum() > 1
    assert canny_edges(pixels, 100, 200)[9:11, 30:].any()


def test_the_line_around_a_square_is_closed_and_one_pixel_wide():
    pixels = np.zeros((30, 30, 3), np.uint8)
    pixels[10:20, 10:20] = 255
    edges = canny_edges(pixels, 100, 200)[..., 0] > 0
    assert edges[15].sum() == 2
    assert edges[:, 15].sum() == 2
    assert edges.sum() == pytest.approx(4 * 10, abs=6)
