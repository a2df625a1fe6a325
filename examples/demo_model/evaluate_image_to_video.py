"""Score the image-to-video demo: does each clip begin with its image and move as its prompt says?

    python examples/demo_model/evaluate_image_to_video.py
    python examples/demo_model/evaluate_image_to_video.py --model-dir demo_i2v_4bit --sheet sheet.png

The images are first frames of clips of scenes that were held out from training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from evaluate import contact_sheet
from grammar import Scene, draw_clip, held_out_pairs
from score import accuracies, read_scene

from mlx_video import WanPipeline
from mlx_video.convert.demo_model import IMAGE_DEMO, demo_model_folder


def held_out_images(count: int) -> list[tuple[Scene, int, np.ndarray]]:
    """(scene, seed, first frame as uint8 [64, 64, 3]) of scenes the model never saw."""
    return [
        (scene, seed, draw_clip(scene, np.random.default_rng(seed))[0])
        for scene, seed in held_out_pairs(count)
    ]


def psnr(frame: np.ndarray, image: np.ndarray) -> float:
    """Likeness of two uint8 pictures in dB."""
    error = np.square(frame.astype(float) - image).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="converted folder (default: the demo model)")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the first clips")
    args = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(args.model_dir or demo_model_folder(IMAGE_DEMO))
    results, likeness, clips = [], [], []
    for scene, seed, image in held_out_images(args.pairs):
        frames = pipeline(scene.captions()[seed % 4], image=image, seed=seed).frames
        results.append((scene, read_scene(frames)))
        likeness.append(psnr(frames[0], image))
        clips.append(frames)
    report = {name: round(100 * value, 1) for name, value in accuracies(results).items()}
    report["first_frame_psnr_db"] = round(float(np.mean(likeness)), 1)
    report["worst_first_frame_psnr_db"] = round(min(likeness), 1)
    print(json.dumps(report | {"pairs": args.pairs}, indent=2))
    if args.sheet:
        contact_sheet(clips).save(args.sheet)


if __name__ == "__main__":
    main()
