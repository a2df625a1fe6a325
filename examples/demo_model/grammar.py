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
# Only the demo control model knows this one: the shape goes where the outline in a control video goes.
GUIDED_MOTION = "guided"
PATHS = ("line", "curve", "corner")
NEW_PATH = "wave"  # nothing is trained on it
PATH_PIXELS = (14.0, 44.0)  # length of a path, at least and at most
OUTLINE_PIXELS = 2.0  # width of the outline's stroke
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
GUIDED_TEMPLATES = (
    "a {colour} {shape} on a {background} background",
    "a {colour} {shape}, {background} background",
    "on a {background} background, a {colour} {shape}",
    "{colour} {shape}, {background} background",
)
TEMPLATES = {"still": STILL_TEMPLATES, NEW_MOTION: GROWING_TEMPLATES, GUIDED_MOTION: GUIDED_TEMPLATES}


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
    return split_scenes_of(NEW_MOTION, num_held_out, seed)


def split_guided_scenes(num_held_out: int = 10, seed: int = 22) -> tuple[list[Scene], list[Scene]]:
    """Scenes that the demo control model trains on, and others that it never sees."""
    return split_scenes_of(GUIDED_MOTION, num_held_out, seed)


def split_scenes_of(motion: str, num_held_out: int, seed: int) -> tuple[list[Scene], list[Scene]]:
    """Scenes of one motion to train on, and those that are held out."""
    scenes = [Scene(c, s, motion, b) for c, s, b in itertools.product(COLOURS, SHAPES, BACKGROUNDS)]
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


@dataclass(frozen=True, slots=True)
class Course:
    """Where a shape is and how large, frame by frame.

    Attributes:
        centres: (x, y) in pixels, [F, 2].
        radii: in pixels, [F].
    """

    centres: np.ndarray
    radii: np.ndarray


def draw_course(scene: Scene, rng: np.random.Generator) -> Course:
    """Random place, size and speed for a scene of the known motions or of the adapter's."""
    radius = rng.uniform(10.0, 13.0)
    direction = MOTIONS.get(scene.motion, MOTIONS["still"])
    travel = rng.uniform(18.0, 26.0) * np.array(direction, float)
    first, last = (radius, radius) if scene.motion != NEW_MOTION else (0.6 * radius, 1.15 * radius)
    low = last + 1 + np.maximum(-travel, 0)
    high = np.array([WIDTH, HEIGHT]) - last - 1 - np.maximum(travel, 0)
    start = rng.uniform(low, high)
    progress = np.linspace(0.0, 1.0, NUM_FRAMES)
    return Course(start + travel * progress[:, None], first + (last - first) * progress)


def draw_path(path: str, rng: np.random.Generator) -> Course:
    """A random path of one kind, whose length is within `PATH_PIXELS`, for a shape of random size."""
    radius = rng.uniform(10.0, 13.0)
    while True:
        points = rng.uniform(radius + 1, np.array([WIDTH, HEIGHT]) - radius - 1, (3, 2))
        centres = _lead_through(path, points, np.linspace(0.0, 1.0, NUM_FRAMES)[:, None])
        length = np.linalg.norm(np.diff(centres, axis=0), axis=1).sum()
        if PATH_PIXELS[0] <= length <= PATH_PIXELS[1]:
            return Course(centres, np.full(NUM_FRAMES, radius))


def _lead_through(path: str, points: np.ndarray, progress: np.ndarray) -> np.ndarray:
    """Centres [F, 2] of a path that begins at the first of three points; `progress` is [F, 1]."""
    first, middle, last = points
    if path == "line":
        return first + (last - first) * progress
    if path == "curve":  # a parabola's arc that leaves and arrives in the directions of the middle point
        return (1 - progress) ** 2 * first + 2 * progress * (1 - progress) * middle + progress**2 * last
    if path == "corner":
        return np.where(
            progress < 0.5,
            first + (middle - first) * 2 * progress,
            middle + (last - middle) * (2 * progress - 1),
        )
    # A wave: along x from the first point to the last, up and down once between the two heights.
    heights = (first[1] + last[1]) / 2 + (last[1] - first[1]) / 2 * np.sin(2 * np.pi * progress)
    return np.concatenate([first[0] + (last[0] - first[0]) * progress, heights], axis=1)


def shape_distances(shape: str, course: Course) -> np.ndarray:
    """Signed distance (pixels, negative inside) from every pixel to the shape, [F, H, W]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    return np.stack(
        [
            shape_distance(shape, columns - x, rows - y, radius)
            for (x, y), radius in zip(course.centres, course.radii, strict=True)
        ]
    )


def draw_scene(scene: Scene, course: Course) -> np.ndarray:
    """Draw a scene's shape along its course: uint8 [F, H, W, 3]."""
    return draw_distances(scene, shape_distances(scene.shape, course))


def draw_distances(scene: Scene, distances: np.ndarray) -> np.ndarray:
    """Draw what lies at negative distances [F, H, W] in a scene's colours: uint8 [F, H, W, 3]."""
    cover = np.clip(0.5 - distances, 0.0, 1.0)[..., None]
    background, colour = np.array(BACKGROUNDS[scene.background]), np.array(COLOURS[scene.colour])
    return np.round(background * (1 - cover) + colour * cover).astype(np.uint8)


def draw_outline(shape: str, course: Course) -> np.ndarray:
    """Draw a shape's outline, white on black: a control video, uint8 [F, H, W, 3]."""
    distance = np.abs(shape_distances(shape, course))
    cover = np.clip(0.5 + OUTLINE_PIXELS / 2 - distance, 0.0, 1.0)
    return np.repeat(np.round(255 * cover)[..., None], 3, axis=-1).astype(np.uint8)


def draw_clip(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw one clip with random place, size and speed: uint8 [F, H, W, 3]."""
    return draw_scene(scene, draw_course(scene, rng))
