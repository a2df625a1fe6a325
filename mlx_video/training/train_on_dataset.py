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
from mlx_video.planning.memory_task import MemoryTask
from mlx_video.planning.model_sizes import read_model_sizes
from mlx_video.planning.stage_plans import plan_encoding, plan_text
from mlx_video.request.dataset import DatasetOptions
from mlx_video.request.train import TrainRequest
from mlx_video.runs.memory import find_host
from mlx_video.training.cluster.leader import TrainingLeader
from mlx_video.training.data import prepare_dataset, read_dataset
from mlx_video.training.data.cache_pass import CAPTIONS_AT_A_TIME
from mlx_video.training.data.example_plan import find_learner, survey_dataset
from mlx_video.training.fit import fit_training
from mlx_video.training.largest_example import largest_of_cache, largest_of_survey
from mlx_video.training.memory import measure_training, plan_memory, read_infos
from mlx_video.training.plan import plan_training
from mlx_video.training.step_gradients import add_up
from mlx_video.training.train import check_start, train


@dataclass(frozen=True, slots=True)
class WholeTraining:
    """What a user asks for, and of which model.

    Attributes:
        request: the training.
        options: its dataset.
        model, config: of the model.
        leader: shares the work with other machines; None where there are none.
    """

    request: TrainRequest
    options: DatasetOptions
    model: ModelFolder
    config: ModelConfig
    leader: TrainingLeader | None = None


def train_on_dataset(whole: WholeTraining) -> Work[Path | None]:
    """Encode what of the dataset is not in its cache yet, and train; or do less, as the options say.

    Returns:
        The trained file, or folder; None where the options ask for no training.

    Raises:
        RequestError, DatasetError, MediaError, CheckpointError, MemoryBudgetError, TrainingError,
        AdapterError: as `plan_training`, `prepare_dataset`, `fit_training` and `train`.
        ClusterError: another machine differs, or is lost.
    """
    request, options = whole.request, whole.options
    plan = plan_training(request, whole.model, whole.config)
    if not (options.cache_only or options.inspect_dataset):
        check_start(plan)
        if whole.leader:
            whole.leader.check(plan)
    examples = yield from prepare_dataset(
        options,
        whole.model,
        whole.config,
        seed=request.seed,
        memory_limit=request.memory_limit,
        distill_steps=request.walk_steps,
    )
    if examples is None:
        return None
    largest = largest_of_cache(examples, plan.config)
    fitted = fit_training(plan, largest)
    yield MemoryPlanned(fitted.memory.predicted)
    if whole.leader:
        yield from whole.leader.begin(plan, examples, largest)
    work = train(fitted.plan, examples, whole.leader.add_up if whole.leader else add_up)
    try:
        return (yield from fitted.limits.in_force(work))
    finally:
        release_memory()


def describe_plan(whole: WholeTraining) -> Work[None]:
    """Say what a training would keep in memory; clips are looked at, and nothing is written.

    Raises:
        RequestError, DatasetError, MediaError, CheckpointError: as `train_on_dataset`.
    """
    dataset = read_dataset(whole.options, whole.config)
    plan = plan_training(whole.request, whole.model, whole.config)
    learner = find_learner(whole.config, whole.options.extra_inputs, whole.request.walk_steps)
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
