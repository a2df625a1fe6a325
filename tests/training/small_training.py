"""Trainings of tiny models in a folder, on examples that are drawn and not encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import convert_checkpoint
from mlx_video.conditioning.types import Conditioning
from mlx_video.events import Event
from mlx_video.loading.components import open_model
from mlx_video.request.train import TrainRequest
from mlx_video.training.example import Example
from mlx_video.training.plan import TrainingPlan, plan_training
from mlx_video.training.train import train
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant
from tests.parity.golden import fill

LAYERS = 4  # enough to be streamed
SIZES = TinySizes()


def write_model(root: Path, **options: Any) -> Path:
    """A converted model of text to video in float32."""
    deep = replace(SIZES, transformer=replace(SIZES.transformer, num_layers=LAYERS))
    checkpoint = write_tiny_checkpoint(root / "original", deep).path
    convert_checkpoint(checkpoint, root / "model", dtype="float32", **options)
    return root / "model"


def write_experts(root: Path) -> Path:
    """A converted model of two experts."""
    write_tiny_variant(root / "original", "wan2.2-t2v-a14b")
    convert_checkpoint(root / "original", root / "model", dtype="float32")
    return root / "model"


@dataclass
class DrawnExamples:
    """Examples that are a function of their number."""

    count: int = 3
    size: int = 1
    channels: int = 16
    identity: str = "drawn"
    spoiled: int = -1

    @property
    def batches_per_epoch(self) -> int:
        return self.count

    @property
    def empty_context(self) -> mx.array:
        return mx.array(fill((1, 32), 77))

    def describe(self) -> str:
        return f"{self.count} drawn examples"

    def batch(self, position: int) -> tuple[Example, ...]:
        return tuple(self.draw((position * self.size + place) % self.count) for place in range(self.size))

    def draw(self, number: int) -> Example:
        latents = mx.array(fill((self.channels, 2, 4, 4), 3000 + number))
        if number == self.spoiled:
            latents = latents * mx.inf
        context = mx.array(fill((5, 32), 4000 + number))
        return Example(f"clip {number}", latents, Conditioning(context), seed=number)


def plan_small(model: Path, folder: Path, **options: Any) -> TrainingPlan:
    """A training of a few steps."""
    options = {"steps": 4, "rank": 2, "save_every": 0, "learning_rate": 1e-2} | options
    return plan_training(TrainRequest(output_dir=folder, **options), *open_model(model))


def run(plan: TrainingPlan, examples: DrawnExamples | None = None) -> tuple[list[Event], Path]:
    """Train to the end; its events, and what was written."""
    events: list[Event] = []
    work = train(plan, examples or DrawnExamples())
    while True:
        try:
            events.append(next(work))
        except StopIteration as done:
            return events, done.value
