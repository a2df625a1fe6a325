"""Make the demo models again from nothing, stage by stage, and say how long each stage took.

    python examples/demo_model/make_demo.py --work-dir demo_training --output demo_checkpoint

A run that was stopped goes on where it ended. `--output` gets the Wan2.1 checkpoint, its siblings in
`image_to_video/` and `control/`, and the adapters `growing.safetensors` and `few_steps.safetensors`.
`--scale 0.01` takes a hundredth of every stage's steps, in a work folder of its own, to see that all of them
run.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from scale import add_scale

SCRIPTS = Path(__file__).parent


def training_stages(work: Path, output: Path, scale: float) -> list[list[str]]:
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
        ["train_control.py", "--checkpoint", str(output)],
        ["train_control.py", "--export", str(output / "control")],
        ["train_adapter.py", "--output", str(output / "growing.safetensors")],
        ["train_few_steps.py", "--checkpoint", str(output), "--output", few_steps],
    ]
    return [[*stage, "--work-dir", str(work), "--scale", str(scale)] for stage in stages]


def cpu_minutes() -> float:
    """What all stages so far have computed, whatever else the machine did beside them."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (spent.ru_utime + spent.ru_stime) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo_training"))
    parser.add_argument("--output", type=Path, default=Path("demo_checkpoint"))
    add_scale(parser)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    for script, *options in training_stages(args.work_dir, args.output, args.scale):
        print(f"== {script} {' '.join(options)}", flush=True)
        started, computed = time.time(), cpu_minutes()
        subprocess.run([sys.executable, SCRIPTS / script, *options], check=True)
        minutes, computed = (time.time() - started) / 60, cpu_minutes() - computed
        print(f"== took {minutes:.1f} minutes, {computed:.1f} of one core's time", flush=True)
    minutes = (time.time() - begun) / 60
    print(f"All stages together took {minutes:.0f} minutes, {cpu_minutes():.0f} of one core's time.")


if __name__ == "__main__":
    main()
