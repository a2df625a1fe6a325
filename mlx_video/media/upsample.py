"""Videos of a larger size and a higher frame rate, their corners and their ends kept in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

Taps = tuple[np.ndarray, np.ndarray, np.ndarray]
"""For each new place: the old one before it, the one behind it, and the share of the latter."""


def upsample(frames: Sequence[np.ndarray], num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Interpolate between pixels, then between frames, as torch does with `align_corners`.

    Args:
        frames: uint8 [H, W, 3] each.
        num_frames, height, width: of the result.

    Yields:
        float32 [height, width, 3] in [-1, 1].

    Source: meituan-longcat/LongCat-Video longcat_video/pipeline_longcat_video.py, generate_refine.
    """
    kept: dict[int, np.ndarray] = {}
    for before, behind, share in zip(*find_taps(len(frames), num_frames), strict=True):
        for number in (before, behind):
            if number not in kept:
                kept[number] = _resize(frames[number], height, width)
        yield (1 - share) * kept[before] + share * kept[behind]
        kept = {number: frame for number, frame in kept.items() if number >= before}


def find_taps(old: int, new: int) -> Taps:
    """Where each of the new places lies among the old ones."""
    places = np.arange(new) * np.float64((old - 1) / max(new - 1, 1))
    before = np.minimum(np.floor(places).astype(np.int64), old - 1)
    return before, np.minimum(before + 1, old - 1), (places - before).astype(np.float32)


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels: np.ndarray = frame.astype(np.float32)
    above, below, share = find_taps(len(pixels), height)
    pixels = (1 - share)[:, None, None] * pixels[above] + share[:, None, None] * pixels[below]
    left, right, share = find_taps(pixels.shape[1], width)
    pixels = (1 - share)[:, None] * pixels[:, left] + share[:, None] * pixels[:, right]
    return pixels / 255 * 2 - 1
