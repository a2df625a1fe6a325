"""A training's first part, by its options: inspect the dataset, or encode it, or give it encoded."""

from __future__ import annotations

from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.events import TextResult, Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request.dataset import DatasetOptions
from mlx_video.training.data.cache_pass import cache_dataset
from mlx_video.training.data.cached_dataset import CachedDataset
from mlx_video.training.data.inspect_dataset import inspect_dataset
from mlx_video.training.data.read_dataset import read_dataset

CONTACT_SHEET = Path("contact-sheet.png")


def prepare_dataset(
    options: DatasetOptions,
    model: ModelFolder,
    config: ModelConfig,
    *,
    seed: int = 0,
    memory_limit: float | None = None,
    distill_steps: int | None = None,
) -> Work[CachedDataset | None]:
    """Do what options of the dataset ask for.

    Args:
        options: of the user.
        model: its files; an inspection reads none of them.
        config: what its config.json says.
        seed: of the order in which examples are shown.
        memory_limit: in GB of 10^9 bytes; None for what the machine has.
        distill_steps: that a student learns to do with; None for no student.

    Returns:
        The dataset to train with; None where the options ask for no training.

    Raises:
        RequestError, DatasetError, MediaError, CheckpointError, MemoryBudgetError: as `read_dataset`,
            `inspect_dataset` and `cache_dataset`.
    """
    dataset, extra = read_dataset(options, config), options.extra_inputs
    if options.inspect_dataset:
        sheet = options.contact_sheet or CONTACT_SHEET
        yield from inspect_dataset(dataset, config, sheet, extra_inputs=extra, distill_steps=distill_steps)
        return None
    cached = yield from cache_dataset(
        dataset,
        model,
        config,
        seed=seed,
        extra_inputs=extra,
        distill_steps=distill_steps,
        memory_limit=memory_limit,
    )
    if options.cache_only:
        yield TextResult(f"{dataset.source}: {cached.describe()}.")
        return None
    return cached
