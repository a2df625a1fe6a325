"""Pictures of another size: the interpolations the official code uses, and centre crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

FindTaps = Callable[[int, int], list[tuple[np.ndarray, np.ndarray]]]
"""Old and new length of a side → for each tap, which pixel it reads for each new one, and its share."""

PillowFilter = Literal["BOX", "BILINEAR", "BICUBIC", "LANCZOS"]

_BICUBIC_A = -0.75
# (v / 255 - 0.5) / 0.5 in float32, in the official order, for every value a byte has.
_UNIT_RANGE = (np.arange(256, dtype=np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)


def to_unit_range(pixels: np.ndarray) -> np.ndarray:
    """Map 0…255 to [-1, 1].

    Args:
        pixels: any shape, uint8.

    Returns:
        Same shape, float32; bit for bit the official values.

    Raises:
        ValueError: the pixels are not uint8.

    Source: Wan2.1 wan/image2video.py, WanI2V.generate (to_tensor, sub, div).
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype}, expected uint8.")
    return _UNIT_RANGE[pixels]


def resize_bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize as torch does with mode "bicubic": a = -0.75, four taps even when shrinking, edges repeated.

    The aspect ratio is not kept, and results may lie a little outside the range of the input.

    Args:
        pixels: [H, W, C], float32.
        height: rows of the result.
        width: pixels of its rows.

    Returns:
        [height, width, C], float32.

    Raises:
        ValueError: other rank or dtype, or a side without pixels.

    Source: PyTorch aten/src/ATen/native/UpSample.h, get_cubic_upsample_coefficients; Wan2.1
    wan/image2video.py, WanI2V.generate (interpolate).
    """
    return _resize(pixels, height, width, _cubic_taps)


def resize_bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize as torch does with mode "bilinear": two taps even when shrinking, edges repeated.

    Args:
        pixels, height, width: as for :func:`resize_bicubic`.

    Returns:
        [height, width, C], float32.

    Raises:
        ValueError: other rank or dtype, or a side without pixels.

    Source: PyTorch aten/src/ATen/native/UpSample.h, compute_source_index_and_lambda; Wan2.1 wan/vace.py,
    WanVace.prepare_source (interpolate).
    """
    return _resize(pixels, height, width, _linear_taps)


def _resize(pixels: np.ndarray, height: int, width: int, taps: FindTaps) -> np.ndarray:
    if pixels.dtype != np.float32 or pixels.ndim != 3:
        raise ValueError(f"pixels are {pixels.dtype} {list(pixels.shape)}, expected float32 [H, W, C].")
    if min(*pixels.shape, height, width) < 1:
        raise ValueError(f"{list(pixels.shape)} to {height}x{width}: every side needs at least one pixel.")
    return _resize_columns(_resize_rows(pixels, height, taps), width, taps)


def _resize_rows(pixels: np.ndarray, height: int, taps: FindTaps) -> np.ndarray:
    if pixels.shape[0] == height:
        return pixels  # all weight would lie on one tap
    parts = ((pixels[place], weight[:, None, None]) for place, weight in taps(pixels.shape[0], height))
    return _weighted_sum(parts)


def _resize_columns(pixels: np.ndarray, width: int, taps: FindTaps) -> np.ndarray:
    height, old_width, channels = pixels.shape
    if old_width == width:
        return pixels
    # Pixels and channels as one axis: numpy is much faster over one long axis than over three values.
    parts = (
        (pixels.take(place, axis=1).reshape(height, -1), weight.repeat(channels))
        for place, weight in taps(old_width, width)
    )
    return _weighted_sum(parts).reshape(height, width, channels)


def _weighted_sum(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Σ values · weight; the values are overwritten."""
    products = (np.multiply(values, weight, out=values) for values, weight in parts)
    total = next(products)
    for product in products:
        total += product
    return total


def _cubic_taps(old: int, new: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which four pixels make each new one, and their shares: four pairs int64 [new], float32 [new]."""
    # torch's own roundings: the ratio in float32, the place from it in float64, then float32 again. An exact
    # ratio would move pixels by up to 2e-4 in a noisy picture of 1000 pixels.
    ratio = np.float64(np.float32(old) / np.float32(new))
    centre = (ratio * (np.arange(new) + 0.5) - 0.5).astype(np.float32)
    left = np.floor(centre)
    # float64 for the polynomials: torch fuses their products and sums, so it loses fewer digits than float32.
    t = (centre - left).astype(np.float64)
    weights = (_far_weight(t + 1), _near_weight(t), _near_weight(1 - t), _far_weight(2 - t))
    places = left.astype(np.int64)
    return [
        ((places + offset).clip(0, old - 1), weight.astype(np.float32))
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True)
    ]


def _linear_taps(old: int, new: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which two pixels make each new one, and their shares: two pairs int64 [new], float32 [new]."""
    ratio = np.float64(np.float32(old) / np.float32(new))  # roundings as for the cubic taps
    centre = np.maximum(ratio * (np.arange(new) + 0.5) - 0.5, 0).astype(np.float32)
    left = np.floor(centre)
    share = centre - left
    places = left.astype(np.int64)
    return [(places, 1 - share), ((places + 1).clip(0, old - 1), share)]


def _near_weight(x: np.ndarray) -> np.ndarray:
    """The cubic kernel at distances up to 1."""
    return ((_BICUBIC_A + 2) * x - (_BICUBIC_A + 3)) * x * x + 1


def _far_weight(x: np.ndarray) -> np.ndarray:
    """The cubic kernel at distances from 1 to 2."""
    return ((_BICUBIC_A * x - 5 * _BICUBIC_A) * x + 8 * _BICUBIC_A) * x - 4 * _BICUBIC_A


def resize_lanczos(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with Pillow's Lanczos filter, which averages when it shrinks; the aspect ratio is not kept.

    Args:
        pixels: [H, W, 3], uint8.
        height: rows of the result.
        width: pixels of its rows.

    Returns:
        [height, width, 3], uint8.
    """
    return resize_by_pillow(pixels, height, width, "LANCZOS")


def resize_by_pillow(pixels: np.ndarray, height: int, width: int, resampling: PillowFilter) -> np.ndarray:
    """Resize with a filter of Pillow's, which averages when it shrinks; the aspect ratio is not kept.

    Args:
        pixels: uint8 [H, W, 3], or float32 [H, W].
        height: rows of the result.
        width: pixels of its rows.
        resampling: the filter.

    Returns:
        [height, width, …], of the same type.
    """
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling[resampling]))


def centre_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the middle out; of an odd rest, the larger half goes at the bottom and the right.

    Args:
        pixels: [H, W, C], any dtype, H ≥ height, W ≥ width.
        height: rows of the result.
        width: pixels of its rows.

    Returns:
        [height, width, C], a view.

    Raises:
        ValueError: the picture is smaller than the crop.
    """
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise ValueError(f"a crop of {width}x{height} cannot be cut from {list(pixels.shape)}.")
    return pixels[top : top + height, left : left + width]


def centre_cut(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a picture [H, W, 3], its place rounded to even; zeros around one that is smaller.

    Source: torchvision torchvision/transforms/functional.py, center_crop.
    """
    rows, columns = pixels.shape[:2]
    missing = [(max(0, side - found)) for side, found in ((height, rows), (width, columns))]
    if any(missing):
        around = [(each // 2, (each + 1) // 2) for each in missing]
        pixels = np.pad(pixels, [*around, (0, 0)])
        rows, columns = pixels.shape[:2]
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return pixels[top : top + height, left : left + width]


def crop_to_aspect(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut out the largest middle part whose sides have the ratio `height` : `width`, to whole pixels.

    Resizing it afterwards is "resize to cover, then crop" without interpolating what is cut away.

    Args:
        pixels: [H, W, C], any dtype.
        height: only its ratio to `width` counts.
        width: as `height`.

    Returns:
        [h, w, C], a view; all of the picture if its ratio fits.
    """
    old_height, old_width = pixels.shape[:2]
    if old_height * width > old_width * height:
        return centre_crop(pixels, max(1, round(old_width * height / width)), old_width)
    return centre_crop(pixels, old_height, max(1, round(old_height * width / height)))


def cover_lanczos(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fill a size without distortion: resize until both sides are covered, then cut the middle out.

    Args:
        pixels: [H, W, 3], uint8.
        height: rows of the result.
        width: pixels of its rows.

    Returns:
        [height, width, 3], uint8.

    Source: Wan2.2 wan/textimage2video.py, WanTI2V.i2v (resize and crop of the image).
    """
    old_height, old_width = pixels.shape[:2]
    scale = max(width / old_width, height / old_height)
    covering = resize_lanczos(pixels, round(old_height * scale), round(old_width * scale))
    return centre_crop(covering, height, width)
