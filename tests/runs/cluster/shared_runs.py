"""Tiny models made by one process and by several, for comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_video import convert_checkpoint, generate_wan
from mlx_video.cli import generate
from mlx_video.events import StepFinished
from mlx_video.latents.latents_file import load_latents
from tests.distributed.ranks import Ended, run_ranks
from tests.fixtures import tiny_variants
from tests.fixtures.tiny_variants import TINY_VARIANTS, write_tiny_variant

LAYERS = 4  # enough to be streamed
PROGRAM = ("-m", "mlx_video.generate_wan")
SMALL = (
    *("--prompt=a cat", "--width=32", "--height=32", "--num-frames=5", "--steps=2", "--seed=1"),
    *("--guide-scale=3", "--no-device-check"),
)


@dataclass(frozen=True)
class Models:
    """Converted tiny models, each made once.

    Attributes:
        root: folder of the test run.
    """

    root: Path

    def __call__(self, name: str, **options) -> Path:
        """A converted folder; options as of `convert_checkpoint`."""
        original, path = self.root / "original" / name, self.root / "_".join((name, *options))
        if not original.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(TINY_VARIANTS, name, deepen(name))
                write_tiny_variant(original, name)
        if not path.exists():
            convert_checkpoint(original, path, dtype="float32", **options)
        return path

    def picture(self, width: int = 32, height: int = 32) -> Path:
        """A picture."""
        path = self.root / f"{width}x{height}.png"
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return path


def deepen(name: str) -> tiny_variants.TinyVariant:
    """A tiny variant with blocks enough to be streamed, and a short text."""
    variant = TINY_VARIANTS[name]
    transformer = replace(variant.sizes.transformer, num_layers=LAYERS, text_len=16)
    return replace(variant, sizes=replace(variant.sizes, transformer=transformer))


def alone(model: Path, output: Path, *words: str) -> mx.array:
    """Latents that this process makes by itself."""
    assert generate_wan.main([*options(model, output, words)]) == 0
    return load_latents(latents_path(output))[0]


def stop_alone(step: int, model: Path, output: Path, *words: str) -> None:
    """Begin a run in this process, and leave its state after so many steps."""
    args = generate.build_parser().parse_args(options(model, output, words))
    events = generate.run_events(args)
    for event in events:
        if isinstance(event, StepFinished) and event.index + 1 == step:
            events.close()
            return
    raise AssertionError(f"there is no step {step}")


def together(count: int, model: Path, output: Path, *words: str) -> mx.array:
    """Latents that several processes make; only rank 0 says anything."""
    ended = run_ranks(count, [*PROGRAM, *options(model, output, words)], seconds=100)
    refuse_errors(ended)
    return load_latents(latents_path(output))[0]


def together_in_turn(
    count: int, model: Path, folder: Path, cases: Mapping[str, Sequence[str]]
) -> dict[str, mx.array]:
    """Latents of several runs, which processes make that are started once; name → options."""
    runs = [options(model, folder / f"{name}.mp4", words) for name, words in cases.items()]
    refuse_errors(run_ranks(count, ["-m", "tests.runs.cluster.runs_in_turn", json.dumps(runs)], seconds=200))
    return {name: load_latents(folder / f"{name}.safetensors")[0] for name in cases}


def assert_close(found: mx.array, expected: mx.array, tolerance: float = 1e-5) -> None:
    """Make sure that latents are the same but for the order in which numbers are added up."""
    error = mx.linalg.norm(found - expected) / mx.linalg.norm(expected)
    assert error.item() <= tolerance


def refuse_errors(ended: Sequence[Ended]) -> None:
    """Make sure that all processes ended well, and that all but the first were silent."""
    assert [one.code for one in ended] == [0] * len(ended), ended
    assert [(one.out, one.err) for one in ended[1:]] == [("", "")] * (len(ended) - 1)


def options(model: Path, output: Path, words: Sequence[str]) -> list[str]:
    """Options of a run."""
    named = (f"--model-dir={model}", f"--output-path={output}", f"--save-latents={latents_path(output)}")
    return [*named, *SMALL, *words]


def latents_path(output: Path) -> Path:
    """Where the latents of a video are."""
    return output.with_suffix(".safetensors")


def assert_equal(found: mx.array, expected: mx.array) -> None:
    """Make sure that latents are the same, bit for bit."""
    assert found.dtype == expected.dtype
    assert mx.array_equal(found, expected), mx.abs(found - expected).max()
