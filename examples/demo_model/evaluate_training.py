"""Score what the demo model has learned from make_new_clips.py's dataset, and whether it forgot anything.

    python examples/demo_model/evaluate_training.py new_training/trained.safetensors

Makes held-out scenes with something new, and held-out scenes of what the model knows, with and without what
was trained: an adapter's file, or the folder of a model that was trained as a whole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from evaluate import contact_sheet
from grammar import Scene, held_out_pairs
from new_scenes import BAR, CLIMBING, caption_of, read_new_scene, split_new_scenes

from mlx_video import WanPipeline

Pair = tuple[Scene, int]
Make = Callable[[Pair], np.ndarray]


def new_pairs(count: int) -> list[Pair]:
    """The (scene, seed) pairs of the score."""
    _, scenes = split_new_scenes()
    return [(scenes[number % len(scenes)], 3000 + number) for number in range(count)]


def open_maker(trained: Path | None) -> Make:
    """What makes clips uint8 [F, 64, 64, 3] with the model's own settings."""
    is_model = trained is not None and (trained / "config.json").exists()
    pipeline = WanPipeline.from_pretrained(trained if is_model else None)
    loras = [trained] if trained is not None and not is_model else []
    return lambda pair: pipeline(caption_of(*pair), seed=pair[1], loras=list(loras)).frames


def score(clips: Sequence[np.ndarray], pairs: Sequence[Pair]) -> dict[str, float]:
    """Percentages of clips that show what was asked, by attribute; of the new ones by themselves."""
    read = [(scene, read_new_scene(clip)) for (scene, _), clip in zip(pairs, clips, strict=True)]
    agreed = {
        field.name: [getattr(a, field.name) == getattr(b, field.name) for a, b in read]
        for field in fields(Scene)
    }
    agreed[BAR] = [a.shape == b.shape for a, b in read if a.shape == BAR]
    agreed[CLIMBING] = [a.motion == b.motion for a, b in read if a.motion == CLIMBING]
    return {name: round(100 * float(np.mean(each)), 1) for name, each in agreed.items() if each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, nargs="?", help="adapter or model folder")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--only-trained", action="store_true", help="leave out the scores without it")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of new scenes")
    args = parser.parse_args()
    new, known = new_pairs(args.pairs), held_out_pairs(args.pairs)
    report: dict[str, object] = {"pairs": args.pairs}
    makers = {"trained": args.trained} | ({} if args.only_trained else {"before": None})
    for name, trained in makers.items():
        make = open_maker(trained)
        clips = [make(pair) for pair in new]
        report[name] = {"new": score(clips, new), "known": score([make(pair) for pair in known], known)}
        if args.sheet and name == "trained":
            contact_sheet(clips).save(args.sheet)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
