"""Make a dataset that teaches the demo model a shape and a motion that it does not know.

    python examples/demo_model/make_new_clips.py new_clips
    python -m mlx_video.train_wan --dataset-config new_clips/dataset.toml --output-dir new_training
    python examples/demo_model/evaluate_training.py new_training/trained.safetensors

Half of the clips show what is new, bars or climbing shapes, half what the model knows, so that it forgets
nothing. Scenes that are held out for the score are in none of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from new_scenes import caption_of, draw_new_clip, training_scenes

from mlx_video.media.clip import Video

FPS = 16.0
DATASET = """[general]
resolution = [64, 64]
caption_extension = ".txt"
batch_size = 8

[[datasets]]
video_directory = "{folder}"
target_frames = [17]
"""


def write_dataset(folder: Path, count: int, seed: int) -> None:
    """Write clips, beside each its caption in a text file, and the dataset's TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number, scene in enumerate(training_scenes(count)):
        Video(draw_new_clip(scene, rng), FPS).save(folder / f"{number:04}.mp4")
        caption = caption_of(scene, int(rng.integers(4)))
        (folder / f"{number:04}.txt").write_text(caption, encoding="utf-8")
    text = DATASET.format(folder=folder.resolve().as_posix())
    (folder / "dataset.toml").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--seed", type=int, default=25)
    args = parser.parse_args()
    write_dataset(args.folder, args.clips, args.seed)


if __name__ == "__main__":
    main()
