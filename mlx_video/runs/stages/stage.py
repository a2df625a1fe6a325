"""A stage of a run as a value, and the walk over a list of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_video.events import StageFinished, StageStarted, Value, Work
from mlx_video.loading.residency import release_memory
from mlx_video.runs.networks import make_room
from mlx_video.runs.run import Run


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a run.

    Attributes:
        name: as in the events and in the memory plan.
        work: what it does; called with the run and the results that it takes, in their order.
        takes: names of results of earlier stages, or of what the run begins with.
        gives: name of its own result, in place of an earlier one of this name; None for a stage without.
        is_needed: whether a run calls for it, given what `work` is; a stage left out gives nothing.
        is_reported: whether its begin, its end, its time and its peak memory are told.
    """

    name: str
    work: Callable[..., Work[Any]]
    takes: tuple[str, ...] = ()
    gives: str | None = None
    is_needed: Callable[..., bool] = lambda run, *taken: True
    is_reported: bool = True


def run_stages(run: Run, stages: Sequence[Stage], result: str, results: dict[str, Any]) -> Work[Any]:
    """Let stages work one after another, each on the results of those before.

    A result that no later stage takes is let go before the next one works, also from `results`.

    Args:
        run: what is being made.
        stages: in their order.
        result: name of the result to return.
        results: what the run begins with, by name.

    Raises:
        ValueError: a stage takes what is not there.
    """
    for index, stage in enumerate(stages):
        if missing := [name for name in stage.takes if name not in results]:
            raise ValueError(f"stage {stage.name} takes {', '.join(missing)}, which no earlier stage gives")
        taken = [results[name] for name in stage.takes]
        work = stage.work(run, *taken) if stage.is_needed(run, *taken) else None
        later = {result}.union(*(other.takes for other in stages[index + 1 :]))
        for name in results.keys() - later:
            del results[name]
        del taken
        if work is None:
            continue
        make_room(run)
        value = yield from timed(stage.name, work) if stage.is_reported else work
        if stage.gives:
            results[stage.gives] = value
        del work, value
    return results[result]


def timed(stage: str, work: Work[Value]) -> Work[Value]:
    """Report a stage's begin, end, time and peak memory around its work; memory is released after it."""
    yield StageStarted(stage)
    mx.reset_peak_memory()
    started = time.perf_counter()
    value = yield from work
    seconds, peak = time.perf_counter() - started, mx.get_peak_memory()
    release_memory()
    yield StageFinished(stage, seconds, peak)
    return value
