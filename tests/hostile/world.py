"""Sound inputs, written once: a tiny checkpoint, its converted folder, latents, an adapter."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.tiny_checkpoint import TinyCheckpoint, write_tiny_checkpoint

SIZE = (
    "--width",
    "32",
    "--height",
    "32",
    "--num-frames",
    "1",
    "--steps",
    "1",
    "--seed",
    "1",
    "--no-device-check",
)


@dataclass(frozen=True)
class World:
    """Sound inputs, to be copied and damaged.

    Attributes:
        root: folder of all.
        checkpoint: in the original layout.
    """

    root: Path
    checkpoint: TinyCheckpoint

    @property
    def model(self) -> Path:
        """The converted folder."""
        return self.root / "model"

    @property
    def latents(self) -> Path:
        return self.root / "latents.safetensors"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter.safetensors"

    def copy_checkpoint(self, folder: Path) -> Path:
        """A checkpoint of its own in the folder; files are linked until they are replaced."""
        return _copy(self.checkpoint.path, folder / "checkpoint")

    def copy_model(self, folder: Path) -> Path:
        return _copy(self.model, folder / "model")

    def convert(self, source: Path, *options: str) -> list[str | Path]:
        """Arguments of a conversion."""
        return ["--checkpoint-dir", source, "--output-dir", "converted", "--dtype", "float32", *options]

    def generate(self, *options: str | Path, model: Path | None = None) -> list[str | Path]:
        """Arguments of a run with the smallest of videos."""
        return [
            "--model-dir",
            model or self.model,
            "--prompt",
            "a cat",
            "--output-path",
            "out.png",
            *SIZE,
            *options,
        ]


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    return target


def build_world(root: Path) -> World:
    """Write all sound inputs, in a process of its own: this one must not compute."""
    checkpoint = write_tiny_checkpoint(root / "checkpoint")
    world = World(root, checkpoint)
    write_adapter(world.adapter, checkpoint.sizes.transformer)
    process = os.fork()
    if not process:
        code = 1
        try:
            code = _make_results(world)
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    if status:
        raise RuntimeError("the sound inputs could not be made")
    return world


def _make_results(world: World) -> int:
    from mlx_video import WanPipeline, convert_checkpoint

    convert_checkpoint(world.checkpoint.path, world.model, dtype="float32")
    pipeline = WanPipeline.from_pretrained(world.model)
    pipeline(
        "a cat",
        width=32,
        height=32,
        num_frames=1,
        steps=1,
        seed=1,
        save_latents=world.latents,
        device_check=False,
    )
    return 0
