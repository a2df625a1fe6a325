"""Read colour, shape, motion and background back from the frames of a clip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache

import numpy as np
from grammar import BACKGROUNDS, COLOURS, HEIGHT, SHAPES, WIDTH, Scene, shape_distance

MIN_GROWTH = 2.0  # a growing shape is drawn 3.7 times as large in the end, a still one stays as it is
STILL_PIXELS = 6.0  # a moving shape travels 18 pixels or more
MIN_CONTRAST = 48.0  # distance in RGB that sets a shape's pixel apart from the background
SHAPE_FRAMES = 7


def find_shape(pixels: np.ndarray) -> np.ndarray:
    """Which pixels [F, 64, 64] of a clip [F, 64, 64, 3] stand out from its background."""
    return np.linalg.norm(pixels - border_colour(pixels), axis=-1) > MIN_CONTRAST


def read_scene(frames: np.ndarray) -> Scene:
    """The scene that a clip shows, as far as its pixels tell.

    Args:
        frames: uint8 [F, 64, 64, 3].
    """
    pixels = frames.astype(np.float64)
    backdrop, masks = border_colour(pixels), find_shape(pixels)
    inside = pixels[masks]
    colour = np.median(inside, axis=0) if len(inside) else backdrop
    return Scene(
        nearest(colour, COLOURS), read_shape(masks), read_motion(masks), nearest(backdrop, BACKGROUNDS)
    )


def border_colour(pixels: np.ndarray) -> np.ndarray:
    """Median colour of the outermost pixels of all frames."""
    edges = (pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1])
    return np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)


def nearest(colour: np.ndarray, table: dict[str, tuple[int, int, int]]) -> str:
    """Name of the table's colour that is closest in RGB."""
    return min(table, key=lambda name: float(np.linalg.norm(colour - np.array(table[name]))))


def centroid(mask: np.ndarray) -> np.ndarray:
    """Mean (x, y) of a mask's pixels; the frame's centre when it has none."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) if len(rows) else np.array([WIDTH / 2, HEIGHT / 2])


def read_motion(masks: np.ndarray) -> str:
    """Direction from the first two frames to the last two."""
    start = (centroid(masks[0]) + centroid(masks[1])) / 2
    end = (centroid(masks[-2]) + centroid(masks[-1])) / 2
    dx, dy = end - start
    if max(abs(dx), abs(dy)) < STILL_PIXELS:
        return "still"
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "up" if dy < 0 else "down"


def read_growth(frames: np.ndarray) -> float:
    """The shape's area in the last two frames over that in the first two.

    Args:
        frames: uint8 [F, 64, 64, 3].
    """
    masks = find_shape(frames.astype(np.float64))
    return float(masks[-2:].sum() / max(1, masks[:2].sum()))


def read_shape(masks: np.ndarray) -> str:
    """The shape whose drawing of equal area overlaps best, over several frames.

    Args:
        masks: bool [F, 64, 64].
    """
    return max(SHAPES, key=lambda shape: clip_overlap(shape, masks))


def clip_overlap(shape: str, masks: np.ndarray) -> float:
    """Mean overlap of several frames' masks with drawings of one shape: 1 where all agree in every pixel."""
    chosen = masks[np.linspace(0, len(masks) - 1, SHAPE_FRAMES).round().astype(int)]
    return sum(shape_overlap(shape, mask) for mask in chosen) / SHAPE_FRAMES


@cache
def unit_geometry(shape: str) -> tuple[float, float]:
    """Area over radius squared, and the centroid's height over the radius."""
    radius = 100.0
    y, x = np.mgrid[-150:150, -150:150] + 0.5
    inside = shape_distance(shape, x, y, radius) < 0
    return float(inside.sum()) / radius**2, float(y[inside].mean()) / radius


def shape_overlap(shape: str, mask: np.ndarray) -> float:
    """Intersection over union of a mask with a drawing of as many pixels at the same centroid."""
    area, sink = unit_geometry(shape)
    count = int(mask.sum())
    if not count:
        return 0.0
    radius = float(np.sqrt(count / area))
    x, y = centroid(mask) + 0.5
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    distance = shape_distance(shape, columns - x, rows - y + sink * radius, radius)
    drawn = np.zeros(mask.size, bool)
    drawn[np.argsort(distance.ravel(), kind="stable")[:count]] = True
    drawn = drawn.reshape(mask.shape)
    return float((drawn & mask).sum() / (drawn | mask).sum())


def accuracies(pairs: Iterable[tuple[Scene, Scene]]) -> dict[str, float]:
    """Share of clips, for each attribute, in which (asked, read) agree."""
    pairs = list(pairs)
    return {
        field.name: sum(getattr(a, field.name) == getattr(b, field.name) for a, b in pairs) / len(pairs)
        for field in fields(Scene)
    }
