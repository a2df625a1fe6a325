"""Score the control demo: does the shape go where the outline in its control video goes?

    python examples/demo_model/evaluate_control.py
    python examples/demo_model/evaluate_control.py --model-dir demo_control_4bit --sheet sheet.png

The scenes were held out from training; every fourth path is of a kind that nothing was trained on. Prompts
name no motion. Of each clip, how far the shape's centre is from where its drawing has it is looked at in two
ways: the mean over its frames, and the frame where it is farthest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evaluate import contact_sheet
from grammar import NEW_PATH, PATHS, Course, Scene, draw_outline, draw_path, draw_scene, split_guided_scenes
from score import accuracies, centroid, clip_overlap, find_shape, read_scene

from mlx_video import WanPipeline
from mlx_video.convert.demo_model import CONTROL_DEMO, demo_model_folder

NEAR_PIXELS = 3.0
EVALUATED_PATHS = (*PATHS, NEW_PATH)


@dataclass(frozen=True, slots=True)
class Guided:
    """A scene, the course of its shape, of which kind that is, and the seed."""

    scene: Scene
    path: str
    course: Course
    seed: int


def guided_pairs(count: int) -> list[Guided]:
    """What the published score is made of; the kinds of paths take turns."""
    _, scenes = split_guided_scenes()
    pairs = []
    for i in range(count):
        path, seed = EVALUATED_PATHS[i % len(EVALUATED_PATHS)], 3000 + i
        course = draw_path(path, np.random.default_rng(seed))
        pairs.append(Guided(scenes[i % len(scenes)], path, course, seed))
    return pairs


def find_centres(frames: np.ndarray) -> np.ndarray:
    """Centres (x, y) of the shape in every frame of a clip uint8 [F, 64, 64, 3]: [F, 2]."""
    return np.stack([centroid(mask) for mask in find_shape(frames.astype(float))])


def find_distances(frames: np.ndarray, pair: Guided) -> np.ndarray:
    """How far, in pixels, the shape is from where its drawing has it: [F]."""
    drawn = draw_scene(pair.scene, pair.course)
    return np.linalg.norm(find_centres(frames) - find_centres(drawn), axis=1)


def percent(values: np.ndarray) -> float:
    """Share of true values."""
    return 100 * float(values.mean())


def score_guided(clips: Sequence[np.ndarray], pairs: Sequence[Guided]) -> dict[str, float]:
    """Percent of clips near their paths, on average and in every frame, and that show what prompts say."""
    distances = np.stack([find_distances(clip, pair) for clip, pair in zip(clips, pairs, strict=True)])
    near, always_near = distances.mean(1) <= NEAR_PIXELS, distances.max(1) <= NEAR_PIXELS
    report = {"near": percent(near), "near_in_every_frame": percent(always_near)}
    for path in EVALUATED_PATHS:
        kind = [pair.path == path for pair in pairs]
        report[f"near_in_every_frame_of_a_{path}"] = percent(always_near[kind])
    report |= {"mean_distance_pixels": float(distances.mean()), "worst_clip_pixels": distances.mean(1).max()}
    agreement = accuracies((pair.scene, read_scene(clip)) for pair, clip in zip(pairs, clips, strict=True))
    report |= {name: 100 * agreement[name] for name in ("colour", "shape", "background")}
    overlaps = [
        clip_overlap(pair.scene.shape, find_shape(clip.astype(float)))
        for pair, clip in zip(pairs, clips, strict=True)
    ]
    return report | {"overlap_with_drawn_shape": 100 * float(np.mean(overlaps))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="converted folder (default: the demo model)")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet: each outline above its video")
    args = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(args.model_dir or demo_model_folder(CONTROL_DEMO))
    pairs, clips, rows = guided_pairs(args.pairs), [], []
    for pair in pairs:
        outline = draw_outline(pair.scene.shape, pair.course)
        prompt = pair.scene.captions()[pair.seed % 4]
        clips.append(pipeline(prompt, control_video=outline, seed=pair.seed).frames)
        rows += [outline, clips[-1]]
    report = {name: round(float(value), 1) for name, value in score_guided(clips, pairs).items()}
    print(json.dumps(report | {"pairs": args.pairs}, indent=2))
    if args.sheet:
        contact_sheet(rows).save(args.sheet)


if __name__ == "__main__":
    main()
