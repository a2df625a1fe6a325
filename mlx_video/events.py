"""What a stage reports while it works; whoever runs the pipeline decides what to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know: an adjusted size, a corrected config, a choice made for them."""

    text: str


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins: "text", "image", "denoise", "decode", or a component's name while converting."""

    stage: str


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended; its peak of MLX memory counts everything alive at that moment."""

    stage: str
    wall_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class StepFinished:
    """One sampling step is done.

    Attributes:
        index: counts from 0.
        total: number of steps in the run.
        timestep: what the transformer saw, 0 to 1000.
        wall_seconds: time of this step.
        latents: [C, T, H, W], float32, evaluated.
    """

    index: int
    total: int
    timestep: float
    wall_seconds: float
    latents: mx.array


@dataclass(frozen=True, slots=True)
class FramesDecoded:
    """Frames so far of the video being decoded."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class BytesWritten:
    """Bytes so far of the component being written."""

    component: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class FileWritten:
    """A result is complete under its final name."""

    path: Path


Event = Notice | StageStarted | StageFinished | StepFinished | FramesDecoded | BytesWritten | FileWritten
