"""Edges of a picture as thin white lines on black, by Canny's method."""

from __future__ import annotations

import numpy as np

# tan 22.5°: gradients flatter than this point across, steeper than its inverse up and down.
_TAN_22_5 = np.tan(np.pi / 8)
WHITE = 255


def canny_edges(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Find edges: gradients that are largest across their direction, and strong or joined to strong ones.

    Args:
        pixels: uint8 RGB [H, W, 3].
        low: change of brightness from which on a pixel may continue an edge.
        high: change from which on it begins one. The sum of changes across and down, each over a kernel of
            eight, as other programs count it.

    Returns:
        uint8 [H, W, 3], 0 or 255.

    Source: OpenCV modules/imgproc/src/canny.cpp, Canny (aperture 3, sums of absolute values).
    """
    across, down = _gradients(_brightness(pixels))
    strength = np.abs(across) + np.abs(down)
    thin = _is_largest(strength, across, down) & (strength > low)
    edges = _grow(thin & (strength > high), thin)
    return np.repeat((edges * np.uint8(WHITE))[..., None], 3, axis=2)


def _brightness(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L")).astype(np.int32)


def _gradients(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's differences across and down, int32 [H, W]; pixels beyond the border repeat those at it."""
    around = np.pad(grey, 1, mode="edge")
    rows = around[:-2] + 2 * around[1:-1] + around[2:]
    columns = around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]
    return rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]


def _is_largest(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Where the strength is that of neither neighbour along the gradient, bool [H, W]."""
    height, width = strength.shape
    around = np.pad(strength, 1)

    def neighbour(row: int, column: int) -> np.ndarray:
        return around[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    steep, flat = np.abs(down), np.abs(across) * _TAN_22_5
    is_across = steep < flat
    is_down = steep > np.abs(across) / _TAN_22_5
    falls = (across < 0) ^ (down < 0)
    # Of two equal neighbours one counts, so that a wide edge becomes one line.
    on_row = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    on_column = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    rising = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    falling = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    diagonal = np.where(falls, rising, falling)
    return np.where(is_across, on_row, np.where(is_down, on_column, diagonal))


def _grow(seeds: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """All allowed pixels that touch a seed, or a pixel that touches one, and so on; also at corners."""
    width = allowed.shape[1] + 2
    waiting = np.pad(allowed & ~seeds, 1).reshape(-1)
    found = np.pad(seeds, 1).reshape(-1)
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    front = np.flatnonzero(found)
    while front.size:
        reached = np.unique((front[:, None] + steps).reshape(-1))
        front = reached[waiting[reached]]
        waiting[front], found[front] = False, True
    return found.reshape(-1, width)[1:-1, 1:-1]
