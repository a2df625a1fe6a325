"""The whole of a training: its memory planned, its dataset encoded, the transformer trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.errors import DatasetError
from mlx_video.events import MemoryPlanned, TextResult, Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.residency import release_memory
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.memory_task import MemoryTask
from mlx_video.planning.mlx_limits import plan_limits
from mlx_video.planning.model_sizes import read_model_sizes
from mlx_video.planning.stage_plans import plan_encoding, plan_text
from mlx_video.request.dataset import DatasetOptions
from mlx_video.request.train import TrainRequest
from mlx_video.runs.memory import find_host
from mlx_video.training.data import CachedDataset, prepare_dataset, read_dataset
from mlx_video.training.data.cache_pass import CAPTIONS_AT_A_TIME
from mlx_video.training.data.example_plan import find_learner, survey_dataset
from mlx_video.training.largest_example import largest_of_cache, largest_of_survey
from mlx_video.training.memory import measure_training, plan_memory, read_infos, refuse_misfit
from mlx_video.training.plan import TrainingPlan, plan_training
from mlx_video.training.train import check_start, train


@dataclass(frozen=True, slots=True)
class WholeTraining:
    """What a user asks for, and of which model.

    Attributes:
        request: the training.
        options: its dataset.
        model, config: of the model.
    """

    request: TrainRequest
    options: DatasetOptions
    model: ModelFolder
    config: ModelConfig


def train_on_dataset(whole: WholeTraining) -> Work[Path | None]:
    """Encode what of the dataset is not in its cache yet, and train; or do less, as the options say.

    Returns:
        The trained file, or folder; None where the options ask for no training.

    Raises:
        RequestError, DatasetError, MediaError, CheckpointError, MemoryBudgetError, TrainingError,
        AdapterError: as `plan_training`, `prepare_dataset` and `train`.
    """
    request, options = whole.request, whole.options
    plan = plan_training(request, whole.model, whole.config)
    if not (options.cache_only or options.inspect_dataset):
        check_start(plan)
    examples = yield from prepare_dataset(
        options, whole.model, whole.config, seed=request.seed, memory_limit=request.memory_limit
    )
    if examples is None:
        return None
    plan, memory = fit_training(plan, examples)
    yield MemoryPlanned(memory.predicted)
    host = memory.host
    peak = max(memory.predicted.values())
    limits = plan_limits(host.machine, host.budget, peak, memory.cache_bytes)
    try:
        return (yield from limits.in_force(train(plan, examples)))
    finally:
        release_memory()


def fit_training(plan: TrainingPlan, examples: CachedDataset) -> tuple[TrainingPlan, MemoryPlan]:
    """A training fitted to the memory of this machine.

    Raises:
        MemoryBudgetError: it needs more than there is.
        RequestError: streaming is asked for, and not possible.
    """
    largest = largest_of_cache(examples, plan.config)
    size = measure_training(plan, read_infos(plan), largest.num_tokens, largest.image_tokens)
    way, memory = plan_memory(plan, size, find_host(plan.request.memory_limit))
    refuse_misfit(memory, size)
    return replace(plan, streams=way.streams, checkpoints=way.checkpoints), memory


def describe_plan(whole: WholeTraining) -> Work[None]:
    """Say what a training would keep in memory; clips are looked at, and nothing is written.

    Raises:
        RequestError, DatasetError, MediaError, CheckpointError: as `train_on_dataset`.
    """
    dataset = read_dataset(whole.options, whole.config)
    plan = plan_training(whole.request, whole.model, whole.config)
    learner = find_learner(whole.config, whole.options.extra_inputs)
    survey = yield from survey_dataset(dataset, learner, keeps=False)
    if not survey.examples:
        raise DatasetError(f"{dataset.source}: no clip is long enough for an example. See --inspect-dataset.")
    host, sizes = find_host(whole.request.memory_limit), read_model_sizes(whole.model, whole.config)
    largest, geometry = largest_of_survey(survey, sizes)
    size = measure_training(plan, read_infos(plan), largest.num_tokens, largest.image_tokens)
    _, memory = plan_memory(plan, size, host)
    captions: Sequence[int] = (whole.config.transformer.text_len,) * min(
        CAPTIONS_AT_A_TIME, len(survey.examples)
    )
    task = MemoryTask(sizes, geometry, tuple(captions), num_passes=1, num_videos=1)
    encoding, _ = plan_encoding(task, host)
    yield TextResult(str(replace(memory, stages=(plan_text(task, host), encoding, *memory.stages))))
