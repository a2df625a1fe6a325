"""Score the adapter for few steps: do clips of 4 forwards show what their prompts say?

    python examples/demo_model/evaluate_few_steps.py
    python examples/demo_model/evaluate_few_steps.py --model-dir demo_4bit --sheet few_steps.png

Runs the 60 held-out (scene, seed) pairs with the adapter, whose recipe the package finds by itself, and
the same steps without it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from evaluate import contact_sheet
from grammar import held_out_pairs
from score import accuracies, read_scene

from mlx_video import WanPipeline

ADAPTER = Path(__file__).parent / "few_steps.safetensors"


def make_clips(pipeline: WanPipeline, count: int, options: dict[str, Any]) -> list[np.ndarray]:
    """Clips uint8 [F, 64, 64, 3] of the first pairs."""
    pairs = held_out_pairs(count)
    return [pipeline(scene.captions()[seed % 4], seed=seed, **options).frames for scene, seed in pairs]


def score(clips: list[np.ndarray]) -> dict[str, float]:
    """Percent of the clips in which each attribute is as prompted."""
    pairs = held_out_pairs(len(clips))
    agreement = accuracies((scene, read_scene(clip)) for (scene, _), clip in zip(pairs, clips, strict=True))
    return {name: round(100 * value, 1) for name, value in agreement.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="converted folder (default: the demo model)")
    parser.add_argument("--adapter", type=Path, default=ADAPTER)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet: with the adapter, then without")
    args = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(args.model_dir)
    few = make_clips(pipeline, args.pairs, {"loras": [args.adapter]})
    plain = make_clips(pipeline, args.pairs, {"recipe": "lightx2v"})
    report = {"with_adapter": score(few), "same_steps_without_it": score(plain), "pairs": args.pairs}
    print(json.dumps(report, indent=2))
    if args.sheet:
        contact_sheet([clip for pair in zip(few, plain, strict=True) for clip in pair]).save(args.sheet)


if __name__ == "__main__":
    main()
