"""Score the demo adapter: do shapes grow when the prompt says so, with it and without?

    python examples/demo_model/evaluate_adapter.py
    python examples/demo_model/evaluate_adapter.py --model-dir demo_4bit --sheet growing.png

Runs held-out growing scenes with and without the adapter, and held-out scenes of the known motions with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evaluate import contact_sheet
from grammar import Scene, held_out_pairs, split_growing_scenes
from score import MIN_GROWTH, accuracies, read_growth, read_scene

from mlx_video import WanPipeline

ADAPTER = Path(__file__).parent / "growing.safetensors"
Pair = tuple[Scene, int]


def growing_pairs(count: int) -> list[Pair]:
    """The (scene, seed) pairs of the published score."""
    _, scenes = split_growing_scenes()
    return [(scenes[i % len(scenes)], 2000 + i) for i in range(count)]


def make_clips(pipeline: WanPipeline, pairs: Sequence[Pair], loras: Sequence[Path]) -> list[np.ndarray]:
    """Clips uint8 [F, 64, 64, 3] with the model's default settings."""
    return [
        pipeline(scene.captions()[seed % 4], seed=seed, loras=list(loras)).frames for scene, seed in pairs
    ]


def percent(values: Sequence[bool]) -> float:
    return round(100 * float(np.mean(values)), 1)


def score_growing(clips: Sequence[np.ndarray], pairs: Sequence[Pair]) -> dict[str, float]:
    """How many clips grow, by how much in the median, and whether they show the rest of their prompts."""
    growth = [read_growth(clip) for clip in clips]
    agreement = accuracies((scene, read_scene(clip)) for (scene, _), clip in zip(pairs, clips, strict=True))
    report = {name: round(100 * agreement[name], 1) for name in ("colour", "background")}
    return report | {
        "growing": percent([g >= MIN_GROWTH for g in growth]),
        "median_growth": round(np.median(growth), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="converted folder (default: the demo model)")
    parser.add_argument("--adapter", type=Path, default=ADAPTER)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet: with the adapter, then without")
    args = parser.parse_args()
    pipeline, pairs = WanPipeline.from_pretrained(args.model_dir), growing_pairs(args.pairs)
    grown, plain = make_clips(pipeline, pairs, [args.adapter]), make_clips(pipeline, pairs, [])
    known = held_out_pairs(args.pairs)
    kept = zip(known, make_clips(pipeline, known, [args.adapter]), strict=True)
    kept_scores = accuracies((scene, read_scene(clip)) for (scene, _), clip in kept)
    report = {
        "with_adapter": score_growing(grown, pairs),
        "without_adapter": score_growing(plain, pairs),
        "known_motions_with_adapter": {name: round(100 * value, 1) for name, value in kept_scores.items()},
        "pairs": args.pairs,
    }
    print(json.dumps(report, indent=2))
    if args.sheet:
        contact_sheet([clip for pair in zip(grown, plain, strict=True) for clip in pair]).save(args.sheet)


if __name__ == "__main__":
    main()
