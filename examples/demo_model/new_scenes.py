"""What the demo model does not know and a training teaches it: a colour, orange, and a motion, jumping."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from grammar import (
    ALL_SCENES,
    BACKGROUNDS,
    COLOURS,
    HEIGHT,
    NUM_FRAMES,
    SHAPES,
    TEMPLATES,
    WIDTH,
    Course,
    Scene,
    draw_course,
    draw_scene,
    split_scenes,
)
from score import STILL_PIXELS, border_colour, centroid, find_shape, nearest, read_scene

NEW_COLOUR = "orange"
NEW_MOTION = "jumping"
ALL_COLOURS = {**COLOURS, NEW_COLOUR: (250, 130, 15)}
JUMPING_TEMPLATES = (
    "a {colour} {shape} jumping on a {background} background",
    "a {colour} {shape} jumps, {background} background",
    "on a {background} background, a {colour} {shape} is jumping",
    "{colour} {shape} jumping, {background} background",
)
JUMP_PIXELS = (16.0, 22.0)
MOTIONS = tuple(dict.fromkeys(scene.motion for scene in ALL_SCENES))


def new_scenes() -> list[Scene]:
    """Every scene with something new: orange shapes of all motions, and jumping shapes of all colours."""
    orange = itertools.product([NEW_COLOUR], SHAPES, MOTIONS, BACKGROUNDS)
    jumping = itertools.product(ALL_COLOURS, SHAPES, [NEW_MOTION], BACKGROUNDS)
    return [Scene(*values) for values in (*orange, *jumping)]


def split_new_scenes(num_held_out: int = 30, seed: int = 23) -> tuple[list[Scene], list[Scene]]:
    """New scenes to train on, and others that are held out."""
    scenes = new_scenes()
    order = np.random.default_rng(seed).permutation(len(scenes))
    held_out = set(order[:num_held_out].tolist())
    training = [scene for number, scene in enumerate(scenes) if number not in held_out]
    return training, [scenes[number] for number in sorted(held_out)]


def training_scenes(count: int, seed: int = 24) -> list[Scene]:
    """Scenes of a dataset: in turns a new one and one that the model knows, so that it forgets nothing."""
    rng = np.random.default_rng(seed)
    new, known = split_new_scenes()[0], split_scenes()[0]
    both = [[scenes[number] for number in rng.permutation(len(scenes))] for scenes in (new, known)]
    return [both[number % 2][number // 2 % len(both[number % 2])] for number in range(count)]


def caption_of(scene: Scene, style: int) -> str:
    """One of the four ways to say a scene."""
    if scene.motion != NEW_MOTION:
        return scene.captions()[style % 4]
    words = {name: getattr(scene, name) for name in scene.__slots__}
    return JUMPING_TEMPLATES[style % len(TEMPLATES["still"])].format(**words)


def draw_new_clip(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw one clip of a scene, new or known: uint8 [F, H, W, 3]."""
    course = _draw_jump(rng) if scene.motion == NEW_MOTION else draw_course(scene, rng)
    return draw_scene(scene, course, ALL_COLOURS)


def _draw_jump(rng: np.random.Generator) -> Course:
    """Up and down again in one place, highest in the middle frame."""
    radius, height = rng.uniform(10.0, 13.0), rng.uniform(*JUMP_PIXELS)
    low = np.array([radius + 1, radius + 1 + height])
    start = rng.uniform(low, np.array([WIDTH, HEIGHT]) - radius - 1)
    progress = np.linspace(0.0, 1.0, NUM_FRAMES)
    rise = height * 4 * progress * (1 - progress)
    return Course(start - np.array([0.0, 1.0]) * rise[:, None], np.full(NUM_FRAMES, radius))


def read_new_scene(frames: np.ndarray) -> Scene:
    """The scene that a clip shows, new ones included; see :func:`score.read_scene`."""
    found, pixels = read_scene(frames), frames.astype(np.float64)
    masks = find_shape(pixels)
    inside = pixels[masks]
    colour = np.median(inside, axis=0) if len(inside) else border_colour(pixels)
    motion = NEW_MOTION if found.motion == "still" and _jumps(masks) else found.motion
    return Scene(nearest(colour, ALL_COLOURS), found.shape, motion, found.background)


def _jumps(masks: Sequence[np.ndarray] | np.ndarray) -> bool:
    """Whether a shape that ends where it began was higher in the middle."""
    ends, middle = (centroid(masks[0])[1] + centroid(masks[-1])[1]) / 2, len(masks) // 2
    return bool(ends - centroid(masks[middle])[1] >= STILL_PIXELS)
