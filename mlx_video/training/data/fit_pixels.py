"""Frames brought to the size of an example as musubi-tuner and DiffSynth-Studio bring them there."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mlx_video.media.resize import centre_crop, centre_cut, resize_by_pillow, resize_lanczos

FitName = Literal["musubi", "diffsynth"]


def fit_pixels(pixels: np.ndarray, width: int, height: int, fit: FitName) -> np.ndarray:
    """Cover a size and cut the middle out.

    Args:
        pixels: uint8 [H, W, 3].
        width, height: of the result.
        fit: whose filter and roundings.

    Returns:
        uint8 [height, width, 3].
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return (_fit_musubi if fit == "musubi" else _fit_diffsynth)(pixels, width, height)


def _fit_musubi(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Lanczos to enlarge, area averages to shrink.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/media_utils.py, resize_image_to_bucket.
    """
    old_height, old_width = pixels.shape[:2]
    scale = max(width / old_width, height / old_height)
    columns, rows = int(old_width * scale + 0.5), int(old_height * scale + 0.5)
    resize = resize_lanczos if scale > 1 else resize_area
    return centre_crop(resize(pixels, rows, columns), height, width)


def _fit_diffsynth(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pillow's bilinear filter, and a crop that rounds halves to even.

    Source: modelscope/DiffSynth-Studio diffsynth/core/data/operators.py, ImageCropAndResize; torchvision
    transforms/functional.py, center_crop.
    """
    old_height, old_width = pixels.shape[:2]
    scale = max(width / old_width, height / old_height)
    # Never short of the size by a rounding.
    columns, rows = max(width, round(old_width * scale)), max(height, round(old_height * scale))
    return centre_cut(resize_by_pillow(pixels, rows, columns, "BILINEAR"), height, width)


def resize_area(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average of the pixels that each new one covers, shares of them included, as OpenCV's INTER_AREA.

    Args:
        pixels: uint8 [H, W, 3].
        height, width: of the result, no more than the pixels'.

    Returns:
        uint8 [height, width, 3].
    """
    rows = _average(pixels.astype(np.float32), height)
    columns = _average(rows.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return np.rint(columns).clip(0, 255).astype(np.uint8)


def _average(values: np.ndarray, length: int) -> np.ndarray:
    """Averages over the first axis: differences of its running sum between the edges of the new cells."""
    old = values.shape[0]
    if old == length:
        return values
    sums = np.zeros((old + 1, *values.shape[1:]), np.float64)
    np.cumsum(values, axis=0, dtype=np.float64, out=sums[1:])
    edges = np.arange(length + 1) * (old / length)
    whole = np.minimum(edges.astype(np.int64), old - 1)
    share = (edges - whole)[:, None, None]
    at_edges = sums[whole] * (1 - share) + sums[whole + 1] * share
    averages: np.ndarray = np.diff(at_edges, axis=0) / (old / length)
    return averages.astype(np.float32)
