"""Pictures and frames of any size into the video's: covering it, wholly inside it, or stretched to it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mlx_video.media.resize import (
    PillowFilter,
    centre_crop,
    resize_bilinear,
    resize_by_pillow,
    to_unit_range,
)

Fit = Literal["cover", "letterbox", "stretch"]

WHITE = 255
BLACK = 0
MASK_THRESHOLD = 0.5
"""Share of a mask pixel's brightness from which on it counts as white."""


def fit_frame(pixels: np.ndarray, height: int, width: int, fit: Fit = "cover") -> np.ndarray:
    """Bring a frame to a size with Pillow's bicubic filter, which averages when it shrinks.

    Args:
        pixels: uint8 [H, W, 3].
        height, width: of the result.
        fit: "cover" cuts away what does not fit, at equal parts on both sides; "letterbox" shows all of it
            between black bars; "stretch" distorts it.

    Returns:
        uint8 [height, width, 3].

    Source: Wan2.1 wan/utils/vace_processor.py, VaceImageProcessor.resize_crop (covering).
    """
    return _fit(pixels, height, width, fit, "BICUBIC", BLACK)


def fit_mask(pixels: np.ndarray, height: int, width: int, fit: Fit = "cover") -> np.ndarray:
    """Bring a frame of a mask to a size, and make every pixel black or white.

    It stays in place over a frame that :func:`fit_frame` fits alike. Bars beside it are white.

    Args:
        pixels: uint8 [H, W, 3].
        height, width, fit: as for :func:`fit_frame`.

    Returns:
        bool [height, width]; true where it is white.
    """
    fitted = _fit(pixels, height, width, fit, "BOX", WHITE)
    return fitted.mean(axis=2) / 255 >= MASK_THRESHOLD


def letterbox_reference(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Show a whole picture on a white page, resized as the official code does: bilinear, never averaging.

    Args:
        pixels: uint8 [H, W, 3].
        height, width: of the page.

    Returns:
        float32 [height, width, 3] in [-1, 1].

    Source: Wan2.1 wan/vace.py, WanVace.prepare_source.
    """
    old_height, old_width = pixels.shape[:2]
    scale = min(height / old_height, width / old_width)
    rows, columns = max(1, int(old_height * scale)), max(1, int(old_width * scale))
    page = np.ones((height, width, 3), np.float32)
    return _put_on(page, resize_bilinear(to_unit_range(pixels), rows, columns))


def letterbox_character(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Show a whole picture between black bars, resized as the official code does: bilinear, never averaging.

    Args:
        pixels: uint8 [H, W, 3].
        height, width: of the result.

    Returns:
        uint8 [height, width, 3].

    Source: Wan2.2 wan/animate.py, WanAnimate.padding_resize.
    """
    old_height, old_width = pixels.shape[:2]
    if old_height / old_width > height / width:
        rows, columns = height, max(1, int(height / old_height * old_width))
    else:
        rows, columns = max(1, int(width / old_width * old_height)), width
    resized = resize_bilinear(pixels.astype(np.float32), rows, columns)
    return _put_on(np.zeros((height, width, 3), np.uint8), np.rint(resized))


def _fit(
    pixels: np.ndarray, height: int, width: int, fit: Fit, resampling: PillowFilter, canvas: int
) -> np.ndarray:
    old_height, old_width = pixels.shape[:2]
    if (old_height, old_width) == (height, width):
        return pixels
    if fit == "stretch":
        return resize_by_pillow(pixels, height, width, resampling)
    ratios = height / old_height, width / old_width
    scale = max(ratios) if fit == "cover" else min(ratios)
    # Never a pixel short of the side that decides, whichever way its product is rounded.
    rows, columns = max(1, round(old_height * scale)), max(1, round(old_width * scale))
    resized = resize_by_pillow(pixels, rows, columns, resampling)
    if fit == "cover":
        return centre_crop(resized, height, width)
    return _put_on(np.full((height, width, 3), canvas, np.uint8), resized)


def _put_on(page: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The page [H, W, 3] with a picture, no larger, in its middle."""
    height, width = page.shape[:2]
    rows, columns = picture.shape[:2]
    top, left = (height - rows) // 2, (width - columns) // 2
    page[top : top + rows, left : left + columns] = picture
    return page
