"""Score a demo model: does each clip show what its prompt says?

    python examples/demo_model/evaluate.py
    python examples/demo_model/evaluate.py --model-dir demo_4bit --sheet sheet.png

Runs the 60 held-out (scene, seed) pairs with the model's default settings and reads the four attributes back
from the frames. Also measures how well the VAE reconstructs held-out clips.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
from grammar import draw_clip, held_out_pairs, split_scenes
from PIL import Image
from score import accuracies, clip_overlap, find_shape, read_scene

from mlx_video import WanPipeline
from mlx_video.latents.decode import decode_frames, to_uint8
from mlx_video.latents.encode import encode_video
from mlx_video.loading.residency import resident
from mlx_video.loading.vae_halves import load_vae_decoder, load_vae_encoder

SHEET_COLUMNS, SHEET_ROWS, SHEET_ZOOM = 5, 8, 2


def run_pairs(pipeline: WanPipeline, count: int) -> tuple[dict[str, float], list[np.ndarray]]:
    """Make the clips of the first `count` pairs; returns accuracies and the clips."""
    results, clips = [], []
    for scene, seed in held_out_pairs(count):
        video = pipeline(scene.captions()[seed % 4], seed=seed)
        results.append((scene, read_scene(video.frames)))
        clips.append(video.frames)
    masks = [find_shape(clip.astype(float)) for clip in clips]
    overlaps = [clip_overlap(scene.shape, mask) for (scene, _), mask in zip(results, masks, strict=True)]
    return accuracies(results) | {"overlap_with_drawn_shape": float(np.mean(overlaps))}, clips


def reconstruction_psnr(pipeline: WanPipeline, count: int = 6) -> float:
    """Mean PSNR in dB of held-out clips through encoder and decoder."""
    rng = np.random.default_rng(99)
    _, scenes = split_scenes()
    values, model = [], (pipeline.folder, pipeline.config)
    with (
        resident(lambda: load_vae_encoder(*model)) as encoder,
        resident(lambda: load_vae_decoder(*model)) as decoder,
    ):
        for scene in scenes[:count]:
            clip = draw_clip(scene, rng)
            latents = encode_video(encoder, mx.array(clip.astype(np.float32) / 127.5 - 1))
            decoded = np.concatenate([to_uint8(piece) for piece in decode_frames(decoder, latents)])
            error = np.square(decoded.astype(float) - clip).mean()
            values.append(10 * np.log10(255**2 / error))
    return float(np.mean(values))


def contact_sheet(clips: list[np.ndarray]) -> Image.Image:
    """Five frames of each clip, one clip a row."""
    rows = []
    for clip in clips[:SHEET_ROWS]:
        chosen = clip[np.linspace(0, len(clip) - 1, SHEET_COLUMNS).round().astype(int)]
        rows.append(np.concatenate(list(chosen), axis=1))
    sheet = Image.fromarray(np.concatenate(rows))
    return sheet.resize((sheet.width * SHEET_ZOOM, sheet.height * SHEET_ZOOM), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="converted folder (default: the demo model)")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the first clips")
    args = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(args.model_dir)
    started = time.time()
    scores, clips = run_pairs(pipeline, args.pairs)
    report = {name: round(100 * value, 1) for name, value in scores.items()}
    report["vae_psnr_db"] = round(reconstruction_psnr(pipeline), 1)
    report["pairs"] = args.pairs
    report["seconds_per_clip"] = round((time.time() - started) / args.pairs, 2)
    print(json.dumps(report, indent=2))
    if args.sheet:
        contact_sheet(clips).save(args.sheet)


if __name__ == "__main__":
    main()
