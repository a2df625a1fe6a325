"""Tiny models whose encoders make examples."""

from __future__ import annotations

from pathlib import Path

from mlx_video import convert_checkpoint
from mlx_video.config import ModelConfig
from mlx_video.events import Event, finish
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import open_model
from mlx_video.request.dataset import DatasetOptions
from mlx_video.training.data import CachedDataset, prepare_dataset
from tests.fixtures.tiny_variants import write_tiny_variant


def convert_tiny(root: Path, name: str) -> tuple[ModelFolder, ModelConfig]:
    """A tiny model of a variant, converted."""
    write_tiny_variant(root / "original" / name, name)
    return open_model(convert_checkpoint(root / "original" / name, root / name, dtype="float32"))


def cache(
    model: tuple[ModelFolder, ModelConfig],
    events: list[Event] | None = None,
    distill_steps: int | None = None,
    **options: object,
) -> CachedDataset:
    """The examples of a dataset, encoded."""
    heard = [] if events is None else events
    made = finish(
        prepare_dataset(DatasetOptions(**options), *model, distill_steps=distill_steps), heard.append
    )
    assert made is not None
    return made
