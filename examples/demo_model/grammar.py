"""The demo model's little world: which prompts exist, and the clip that each one describes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

WIDTH = HEIGHT = 64
NUM_FRAMES = 17

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 40),
    "green": (30, 170, 60),
    "blue": (40, 70, 230),
    "yellow": (245, 215, 40),
    "purple": (165, 45, 205),
    "cyan": (40, 205, 220),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}
# Only the demo adapter knows this one: the shape stays in place and becomes larger.
NEW_MOTION = "growing"
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 14),
    "white": (243, 243, 240),
    "gray": (128, 128, 128),
}

MOVING_TEMPLATES = (
    "a {colour} {shape} moving {motion} on a {background} background",
    "a {colour} {shape} moves {motion}, {background} background",
    "on a {background} background, a {colour} {shape} is moving {motion}",
    "{colour} {shape} moving {motion}, {background} background",
)
STILL_TEMPLATES = (
    "a {colour} {shape} standing still on a {background} background",
    "a {colour} {shape} stands still, {background} background",
    "on a {background} background, a {colour} {shape} is standing still",
    "{colour} {shape} standing still, {background} background",
)
GROWING_TEMPLATES = (
    "a {colour} {shape} growing on a {background} background",
    "a {colour} {shape} grows, {background} background",
    "on a {background} background, a {colour} {shape} is growing",
    "{colour} {shape} growing, {background} background",
)
TEMPLATES = {"still": STILL_TEMPLATES, NEW_MOTION: GROWING_TEMPLATES}


@dataclass(frozen=True, slots=True)
class Scene:
    """One combination of the four attributes."""

    colour: str
    shape: str
    motion: str
    background: str

    def captions(self) -> list[str]:
        """Every way to say this scene; the first is the plain one."""
        templates = TEMPLATES.get(self.motion, MOVING_TEMPLATES)
        words = {name: getattr(self, name) for name in self.__slots__}
        return [template.format(**words) for template in templates]


ALL_SCENES = tuple(Scene(*values) for values in itertools.product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS))


def split_scenes(num_held_out: int = 30, seed: int = 20) -> tuple[list[Scene], list[Scene]]:
    """Scenes the model trains on, and scenes it never sees (each attribute is seen elsewhere)."""
    order = np.random.default_rng(seed).permutation(len(ALL_SCENES))
    held_out = sorted(order[:num_held_out])
    chosen = set(held_out)
    training = [scene for i, scene in enumerate(ALL_SCENES) if i not in chosen]
    return training, [ALL_SCENES[i] for i in held_out]


def held_out_pairs(count: int = 60) -> list[tuple[Scene, int]]:
    """The (scene, seed) pairs of the published score; none of these scenes is trained on."""
    _, held_out = split_scenes()
    return [(held_out[i % len(held_out)], 1000 + i) for i in range(count)]


def split_growing_scenes(num_held_out: int = 20, seed: int = 21) -> tuple[list[Scene], list[Scene]]:
    """Scenes of the new motion that the demo adapter trains on, and others that it never sees."""
    scenes = [Scene(c, s, NEW_MOTION, b) for c, s, b in itertools.product(COLOURS, SHAPES, BACKGROUNDS)]
    order = np.random.default_rng(seed).permutation(len(scenes))
    held_out = set(order[:num_held_out].tolist())
    training = [scene for i, scene in enumerate(scenes) if i not in held_out]
    return training, [scenes[i] for i in sorted(held_out)]


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance (pixels, negative inside) from points (x, y) to a shape about the origin."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.88 * radius
    if shape == "triangle":
        slanted = 0.894 * abs(x) - 0.447 * (y + radius)
        return np.maximum(slanted, y - 0.8 * radius)
    arm = 0.36 * radius
    upright = np.maximum(abs(x) - arm, abs(y) - radius)
    return np.minimum(upright, np.maximum(abs(x) - radius, abs(y) - arm))


def draw_clip(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw one clip with random place, size and speed: uint8 [F, H, W, 3]."""
    radius = rng.uniform(10.0, 13.0)
    direction = MOTIONS.get(scene.motion, MOTIONS["still"])
    travel = rng.uniform(18.0, 26.0) * np.array(direction, float)
    first, last = (radius, radius) if scene.motion != NEW_MOTION else (0.6 * radius, 1.15 * radius)
    low = last + 1 + np.maximum(-travel, 0)
    high = np.array([WIDTH, HEIGHT]) - last - 1 - np.maximum(travel, 0)
    start = rng.uniform(low, high)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    background = np.array(BACKGROUNDS[scene.background], float)
    colour = np.array(COLOURS[scene.colour], float)
    frames = []
    for progress in np.linspace(0.0, 1.0, NUM_FRAMES):
        centre = start + travel * progress
        radius = first + (last - first) * progress
        distance = shape_distance(scene.shape, columns - centre[0], rows - centre[1], radius)
        cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        frames.append(background * (1 - cover) + colour * cover)
    return np.round(np.stack(frames)).astype(np.uint8)
