"""Draw a control video for the demo: the outline of a shape on its way, white on black.

python examples/demo_model/draw_outline.py --shape circle --path wave --output-path outline.mp4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from grammar import NEW_PATH, PATHS, SHAPES, draw_outline, draw_path

from mlx_video.media.clip import Video

FPS = 16.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="circle")
    parser.add_argument("--path", choices=(*PATHS, NEW_PATH), default="curve")
    parser.add_argument("--seed", type=int, default=0, help="of where the path leads")
    parser.add_argument("--output-path", type=Path, default=Path("outline.mp4"))
    args = parser.parse_args()
    frames = draw_outline(args.shape, draw_path(args.path, np.random.default_rng(args.seed)))
    Video(frames, FPS).save(args.output_path)


if __name__ == "__main__":
    main()
