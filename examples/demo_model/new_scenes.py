"""What the demo model does not know and a training teaches it: a shape, the bar, and a motion, climbing."""

from __future__ import annotations

import itertools

import numpy as np
from grammar import (
    BACKGROUNDS,
    COLOURS,
    HEIGHT,
    MOTIONS,
    NUM_FRAMES,
    SHAPES,
    WIDTH,
    Course,
    Scene,
    draw_course,
    draw_distances,
    shape_distances,
    split_scenes,
)
from score import STILL_PIXELS, centroid, find_shape, read_scene

BAR, CLIMBING = "bar", "climbing"
TEMPLATES = (
    "a {colour} {shape} climbing on a {background} background",
    "a {colour} {shape} climbs, {background} background",
    "on a {background} background, a {colour} {shape} is climbing",
    "{colour} {shape} climbing, {background} background",
)
CLIMB_PIXELS = (15.0, 22.0)  # to the right, and as far up
THICKNESS = 0.4  # of a bar, of its length
LEAST_FLATNESS = 1.6  # width over height of a bar that is seen; the known shapes have 1.1 at most


def new_scenes() -> list[Scene]:
    """Every scene with the new shape or the new motion."""
    bars = [Scene(c, BAR, m, b) for c, m, b in itertools.product(COLOURS, MOTIONS, BACKGROUNDS)]
    climbers = [Scene(c, s, CLIMBING, b) for c, s, b in itertools.product(COLOURS, SHAPES, BACKGROUNDS)]
    return bars + climbers


def split_new_scenes(num_held_out: int = 40, seed: int = 23) -> tuple[list[Scene], list[Scene]]:
    """New scenes to train on, and others that are held out, in a random order."""
    scenes = new_scenes()
    order = np.random.default_rng(seed).permutation(len(scenes)).tolist()
    held_out, training = order[:num_held_out], order[num_held_out:]
    return [scenes[number] for number in sorted(training)], [scenes[number] for number in held_out]


def training_scenes(count: int, seed: int = 24) -> list[Scene]:
    """Scenes of a dataset: in turns a new one and one that the model knows, so that it forgets nothing."""
    rng = np.random.default_rng(seed)
    new, known = split_new_scenes()[0], split_scenes()[0]
    both = [[scenes[number] for number in rng.permutation(len(scenes))] for scenes in (new, known)]
    return [both[number % 2][number // 2 % len(both[number % 2])] for number in range(count)]


def caption_of(scene: Scene, style: int) -> str:
    """One of the four ways to say a scene."""
    if scene.motion != CLIMBING:
        return scene.captions()[style % 4]
    words = {name: getattr(scene, name) for name in scene.__slots__}
    return TEMPLATES[style % 4].format(**words)


def draw_new_clip(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw one clip of a scene, new or known: uint8 [F, H, W, 3]."""
    course = _draw_climb(rng) if scene.motion == CLIMBING else draw_course(scene, rng)
    distances = _bar_distances(course) if scene.shape == BAR else shape_distances(scene.shape, course)
    return draw_distances(scene, distances)


def _draw_climb(rng: np.random.Generator) -> Course:
    """Up and to the right at once."""
    radius, travel = rng.uniform(10.0, 13.0), rng.uniform(*CLIMB_PIXELS)
    low = np.array([radius + 1, radius + 1 + travel])
    high = np.array([WIDTH - radius - 1 - travel, HEIGHT - radius - 1])
    progress = np.linspace(0.0, 1.0, NUM_FRAMES)
    return Course(
        rng.uniform(low, high) + np.array([travel, -travel]) * progress[:, None], np.full(NUM_FRAMES, radius)
    )


def _bar_distances(course: Course) -> np.ndarray:
    """Signed distance (pixels, negative inside) from every pixel to a lying bar, [F, H, W]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    across = abs(columns - course.centres[:, 0, None, None]) - course.radii[:, None, None]
    along = abs(rows - course.centres[:, 1, None, None]) - THICKNESS * course.radii[:, None, None]
    return np.maximum(across, along)


def read_new_scene(frames: np.ndarray) -> Scene:
    """The scene that a clip shows, the new shape and motion included; see :func:`score.read_scene`."""
    found, masks = read_scene(frames), find_shape(frames.astype(np.float64))
    shape = BAR if _read_flatness(masks) >= LEAST_FLATNESS else found.shape
    return Scene(found.colour, shape, _read_motion(found.motion, masks), found.background)


def _read_flatness(masks: np.ndarray) -> float:
    """How wide the shape is for its height: by the spread of its pixels, in the middle of all frames."""
    spreads = [np.std(np.nonzero(mask), axis=1) for mask in masks if mask.sum() > 1]
    return float(np.median([columns / max(rows, 0.1) for rows, columns in spreads])) if spreads else 0.0


def _read_motion(known: str, masks: np.ndarray) -> str:
    """The new motion where the masks show it, else the known one that they are nearest to."""
    start = (centroid(masks[0]) + centroid(masks[1])) / 2
    end = (centroid(masks[-2]) + centroid(masks[-1])) / 2
    right, rise = end[0] - start[0], start[1] - end[1]
    return CLIMBING if min(right, rise) >= STILL_PIXELS else known
