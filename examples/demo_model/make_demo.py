"""Make the demo models again from nothing, stage by stage, and say how long each stage took.

    python examples/demo_model/make_demo.py --work-dir demo_training --output demo_checkpoint

A run that was stopped goes on where it ended. `--output` gets the Wan2.1 checkpoint, its image-to-video
sibling in `image_to_video/` and the adapters `growing.safetensors` and `few_steps.safetensors`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).parent


def training_stages(work: Path, output: Path) -> list[list[str]]:
    """Scripts and their options, in order: each goes on from what those before left in the work folder."""
    vae, few_steps = str(output / "Wan2.1_VAE.pth"), str(output / "few_steps.safetensors")
    stages = [
        ["train_vae.py"],
        ["train_transformer.py", "--steps", "7700"],
        ["train_transformer.py", "--export", str(output)],
        ["sharpen_decoder.py", "--vae", vae],
        ["sharpen_decoder.py", "--vae", vae, "--export", vae],
        ["train_image_to_video.py", "--steps", "900"],
        ["train_image_to_video.py", "--export", str(output / "image_to_video")],
        ["train_adapter.py", "--output", str(output / "growing.safetensors")],
        ["train_few_steps.py", "--checkpoint", str(output), "--output", few_steps],
    ]
    return [[*stage, "--work-dir", str(work)] for stage in stages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    parser.add_argument("--output", type=Path, default=Path("demo_checkpoint"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    for script, *options in training_stages(args.work_dir, args.output):
        print(f"== {script} {' '.join(options)}", flush=True)
        started = time.time()
        subprocess.run([sys.executable, SCRIPTS / script, *options], check=True)
        print(f"== took {(time.time() - started) / 60:.1f} minutes", flush=True)
    print(f"All stages together took {(time.time() - begun) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
