"""Which way to share the steps of a video suits machines: the fastest of those that fit, as predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlx_video.errors import RequestError
from mlx_video.planning.best_plan import plan_memory
from mlx_video.planning.budget import Budget
from mlx_video.planning.machine_gains import Link, StepSize, step_seconds
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.memory_task import Host, MemoryTask
from mlx_video.planning.step_plans import weigh_transformers
from mlx_video.request.choices import ParallelMode
from mlx_video.runs.cluster.machine_facts import MachineFacts
from mlx_video.runs.cluster.modes import check_mode, divide
from mlx_video.runs.memory import find_host, find_task
from mlx_video.runs.run import Run


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of a way to share the steps.

    Attributes:
        mode: the way.
        seconds: of a step.
        alone: seconds of a step on the slowest machine by itself.
        read_bytes: that each machine reads from its disk in a step.
    """

    mode: ParallelMode
    seconds: float
    alone: float
    read_bytes: int = 0

    @property
    def gain(self) -> float:
        """How many times as fast as one machine."""
        return self.alone / self.seconds


def expect_modes(run: Run, facts: Sequence[MachineFacts], link: Link) -> list[Expected]:
    """What is expected of each way that fits, the fastest first; of equals that which changes least.

    Args:
        run: settled; takes steps.
        facts: of all machines.
        link: between neighbours.
    """
    task, host = find_task(run), _smallest_host(run, facts)
    step, rate = size_step(task), min(each.rate for each in facts)
    alone = plan_memory(task, host)
    seconds_alone = step_seconds(None, step, 1, rate, link, _read_bytes(alone))
    found = []
    for mode, plan in _plans(run, task, host, len(facts)):
        read = _read_bytes(plan)
        seconds = step_seconds(mode, step, len(facts), rate, link, read)
        found.append(Expected(mode, seconds, seconds_alone, read))
    return sorted(found, key=lambda each: each.seconds)


def size_step(task: MemoryTask) -> StepSize:
    """A step of a run."""
    weights = max(weigh_transformers(task).values(), key=lambda each: each.total)
    return StepSize(
        task.sizes.config.transformer,
        task.tokens_at_once,
        task.num_passes * task.num_windows,
        sum(weights.blocks),
        weights.number_bytes,
    )


def _plans(
    run: Run, task: MemoryTask, host: Host, machines: int
) -> Iterator[tuple[ParallelMode, MemoryPlan]]:
    """The memory of one machine in each way that the run and the machines allow."""
    modes: tuple[ParallelMode, ...] = ("guidance", "context", "tensor", "sharded")
    for mode in modes:
        try:
            check_mode(mode, machines, run.config, [run.request])
        except RequestError:
            continue
        plan = plan_memory(replace(task, division=divide(mode, machines)), host)
        if not plan.misfits:
            yield mode, plan


def _smallest_host(run: Run, facts: Sequence[MachineFacts]) -> Host:
    host = find_host(run.request.memory_limit)
    least = min(each.budget_bytes for each in facts)
    return replace(host, budget=Budget(least, "of the machine with the least"))


def _read_bytes(plan: MemoryPlan) -> int:
    return sum(stage.read_bytes for stage in plan.stages)
