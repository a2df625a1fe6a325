"""Make docs/gallery.md and its pictures: what the demo models draw, with the commands that make it.

    python examples/make_gallery.py
    python examples/make_gallery.py --only adapter

Every picture is made by running the very commands that stand below it. A new feature shows itself with one
more entry in ENTRIES.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from mlx_video.media.video import read_frames

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"
FRAMES_SHOWN, ZOOM, GAP = 6, 2, 4
INTRODUCTION = """\
# Gallery

Videos of the [demo models](../examples/demo_model/README.md), which ship with the package: one row a video,
six of its frames from first to last. `python examples/make_gallery.py` makes this page and its pictures by
running the commands below, in a clone of this repository.
"""


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery.

    Attributes:
        name: of the picture's file.
        title: over the picture.
        text: what to see in it.
        commands: `python …`, run in this order in one folder; each one's `--output-path` becomes a row of
            the picture.
    """

    name: str
    title: str
    text: str
    commands: tuple[str, ...]


def command(prompt: str, output: str, options: str = "") -> str:
    """One run of the demo model as a reader would type it."""
    parts = f'python -m mlx_video.generate_wan --prompt "{prompt}"', options, f"--output-path {output}"
    return " ".join(filter(None, parts))


def outline(shape: str, path: str, output: str, seed: int) -> str:
    """A control video, drawn as a reader would draw it."""
    script = f"python examples/demo_model/draw_outline.py --shape {shape} --path {path} --seed {seed}"
    return f"{script} --output-path {output}"


ENTRIES = (
    Entry(
        "text_to_video",
        "Text to video",
        "The prompt says colour, shape, motion and background.",
        (
            command("a red circle moving right on a white background", "circle.mp4"),
            command("a yellow triangle moving up on a black background", "triangle.mp4"),
            command("a blue cross moving left on a gray background", "cross.mp4"),
            command("a green square moving down on a white background", "square.mp4"),
        ),
    ),
    Entry(
        "image_to_video",
        "Image to video",
        "The first row is text to video; the others go on from its first frame, each as its prompt says.",
        (
            command(
                "a purple cross standing still on a white background", "still.mp4", "--save-frames still"
            ),
            command(
                "a purple cross moving right on a white background",
                "right.mp4",
                "--image still/frame_00000.png",
            ),
            command(
                "a purple cross moving down on a white background",
                "down.mp4",
                "--image still/frame_00000.png",
            ),
        ),
    ),
    Entry(
        "control",
        "A control video",
        "The shape goes where an outline goes; the prompt says colour, shape and background. Below each "
        "outline is the video that follows it. The wave is a kind of path that nothing was trained on.",
        (
            outline("circle", "wave", "wave.mp4", 0),
            command("a green circle on a white background", "circle.mp4", "--control-video wave.mp4"),
            outline("cross", "curve", "curve.mp4", 1),
            command("a yellow cross on a black background", "cross.mp4", "--control-video curve.mp4"),
        ),
    ),
    Entry(
        "video_to_video",
        "A video to begin with",
        "The first row is text to video; the second begins with it and makes six tenths of it anew, in "
        "another colour and shape.",
        (
            command("a red circle moving right on a white background", "circle.mp4"),
            command(
                "a blue square moving right on a white background",
                "square.mp4",
                "--input-video circle.mp4 --denoising-strength 0.6",
            ),
        ),
    ),
    Entry(
        "adapter",
        "An adapter",
        "The model does not know what growing is (first row); with a LoRA of 0.5 MB it does (second row).",
        (
            command("a blue square growing on a white background", "without.mp4"),
            command(
                "a blue square growing on a white background",
                "with.mp4",
                "--lora examples/demo_model/growing.safetensors",
            ),
        ),
    ),
    Entry(
        "few_steps",
        "Few steps against all",
        "60 forwards (first row); the 4 of a distilled adapter, which the file asks for itself (second row); "
        "and the same 4 without it (third row).",
        (
            command("a purple cross moving right on a black background", "all.mp4"),
            command(
                "a purple cross moving right on a black background",
                "few.mp4",
                "--lora examples/demo_model/few_steps.safetensors",
            ),
            command("a purple cross moving right on a black background", "plain.mp4", "--recipe lightx2v"),
        ),
    ),
)


def run_command(line: str, folder: Path) -> np.ndarray:
    """Run one command in a folder; returns the frames of its video, uint8 [F, H, W, 3]."""
    python, *arguments = shlex.split(line)
    assert python == "python", line
    places = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True)
    return read_frames(folder / arguments[arguments.index("--output-path") + 1])


def draw_strip(clips: Sequence[np.ndarray]) -> Image.Image:
    """Frames of each clip side by side, one clip a row, with white gaps."""
    rows = []
    for clip in clips:
        chosen = clip[np.linspace(0, len(clip) - 1, FRAMES_SHOWN).round().astype(int)]
        large = chosen.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)
        framed = np.pad(large, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(framed), axis=1))
    return Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP])


def make_picture(entry: Entry) -> None:
    """Run an entry's commands and write its picture."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        clips = [run_command(line, Path(folder)) for line in entry.commands]
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw_strip(clips).save(PICTURES / f"{entry.name}.png", optimize=True)


def write_page() -> str:
    """The gallery's page."""
    sections = [INTRODUCTION]
    for entry in ENTRIES:
        commands = "\n".join(entry.commands)
        picture = f"![{entry.title}, frame by frame](gallery/{entry.name}.png)"
        sections.append(f"## {entry.title}\n\n{entry.text}\n\n{picture}\n\n```bash\n{commands}\n```\n")
    return "\n".join(sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=re.sub(r"\s+", " ", __doc__ or ""))
    parser.add_argument("--only", choices=[entry.name for entry in ENTRIES], help="make one picture")
    args = parser.parse_args()
    for entry in ENTRIES:
        if args.only in (None, entry.name):
            make_picture(entry)
    PAGE.write_text(write_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
