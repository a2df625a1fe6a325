"""What the demo model does not know and a training teaches it: two motions, jumping and climbing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from grammar import (
    BACKGROUNDS,
    COLOURS,
    HEIGHT,
    NUM_FRAMES,
    SHAPES,
    WIDTH,
    Course,
    Scene,
    draw_course,
    draw_scene,
    split_scenes,
)
from score import STILL_PIXELS, centroid, find_shape, read_scene

JUMPING, CLIMBING = "jumping", "climbing"
TEMPLATES = {
    JUMPING: (
        "a {colour} {shape} jumping on a {background} background",
        "a {colour} {shape} jumps, {background} background",
        "on a {background} background, a {colour} {shape} is jumping",
        "{colour} {shape} jumping, {background} background",
    ),
    CLIMBING: (
        "a {colour} {shape} climbing on a {background} background",
        "a {colour} {shape} climbs, {background} background",
        "on a {background} background, a {colour} {shape} is climbing",
        "{colour} {shape} climbing, {background} background",
    ),
}
JUMP_PIXELS = (16.0, 22.0)
CLIMB_PIXELS = (15.0, 22.0)  # to the right, and as far up


def new_scenes() -> list[Scene]:
    """Every scene with one of the new motions."""
    return [Scene(c, s, m, b) for c, s, m, b in itertools.product(COLOURS, SHAPES, TEMPLATES, BACKGROUNDS)]


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
    if scene.motion not in TEMPLATES:
        return scene.captions()[style % 4]
    words = {name: getattr(scene, name) for name in scene.__slots__}
    return TEMPLATES[scene.motion][style % 4].format(**words)


def draw_new_clip(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw one clip of a scene, new or known: uint8 [F, H, W, 3]."""
    draw = {JUMPING: _draw_jump, CLIMBING: _draw_climb}.get(scene.motion)
    return draw_scene(scene, draw(rng) if draw else draw_course(scene, rng))


def _draw_jump(rng: np.random.Generator) -> Course:
    """Up and down again in one place, highest in the middle frame."""
    radius, height = rng.uniform(10.0, 13.0), rng.uniform(*JUMP_PIXELS)
    low = np.array([radius + 1, radius + 1 + height])
    start = rng.uniform(low, np.array([WIDTH, HEIGHT]) - radius - 1)
    progress = np.linspace(0.0, 1.0, NUM_FRAMES)
    rise = height * 4 * progress * (1 - progress)
    return Course(start - np.array([0.0, 1.0]) * rise[:, None], np.full(NUM_FRAMES, radius))


def _draw_climb(rng: np.random.Generator) -> Course:
    """Up and to the right at once."""
    radius, travel = rng.uniform(10.0, 13.0), rng.uniform(*CLIMB_PIXELS)
    low = np.array([radius + 1, radius + 1 + travel])
    high = np.array([WIDTH - radius - 1 - travel, HEIGHT - radius - 1])
    progress = np.linspace(0.0, 1.0, NUM_FRAMES)
    return Course(
        rng.uniform(low, high) + np.array([travel, -travel]) * progress[:, None], np.full(NUM_FRAMES, radius)
    )


def read_new_scene(frames: np.ndarray) -> Scene:
    """The scene that a clip shows, new motions included; see :func:`score.read_scene`."""
    found, masks = read_scene(frames), find_shape(frames.astype(np.float64))
    return Scene(found.colour, found.shape, _read_motion(found.motion, masks), found.background)


def _read_motion(known: str, masks: Sequence[np.ndarray] | np.ndarray) -> str:
    """A new motion where the masks show one, else the known one that they are nearest to."""
    start = (centroid(masks[0]) + centroid(masks[1])) / 2
    end = (centroid(masks[-2]) + centroid(masks[-1])) / 2
    right, rise = end[0] - start[0], start[1] - end[1]
    if min(right, rise) >= STILL_PIXELS:
        return CLIMBING
    height = (start[1] + end[1]) / 2 - centroid(masks[len(masks) // 2])[1]
    return JUMPING if known == "still" and height >= STILL_PIXELS else known
