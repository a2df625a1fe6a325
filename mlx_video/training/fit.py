"""A training fitted to the memory of a machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.mlx_limits import MLXLimits, plan_limits
from mlx_video.runs.memory import find_host
from mlx_video.training.largest_example import LargestExample
from mlx_video.training.memory import measure_training, plan_memory, read_infos, refuse_misfit
from mlx_video.training.plan import TrainingPlan


@dataclass(frozen=True, slots=True)
class FittedTraining:
    """A training, and what it takes here.

    Attributes:
        plan: with what was left to the memory chosen.
        memory: that it takes.
        limits: of MLX's own, for its length.
    """

    plan: TrainingPlan
    memory: MemoryPlan
    limits: MLXLimits


def fit_training(plan: TrainingPlan, largest: LargestExample) -> FittedTraining:
    """Choose what a training keeps in this machine's memory.

    Args:
        plan: of the training.
        largest: of its examples.

    Raises:
        MemoryBudgetError: it needs more than there is.
        RequestError: streaming is asked for, and not possible.
    """
    size = measure_training(plan, read_infos(plan), largest.num_tokens, largest.image_tokens)
    way, memory = plan_memory(plan, size, find_host(plan.request.memory_limit))
    refuse_misfit(memory, size)
    host, peak = memory.host, max(memory.predicted.values())
    limits = plan_limits(host.machine, host.budget, peak, memory.cache_bytes)
    return FittedTraining(replace(plan, streams=way.streams, checkpoints=way.checkpoints), memory, limits)
