"""The plan of a video that is not in the queue yet, made in a process of its own.

MLX's limits are those of a process, and the thread that makes a video has them; a plan beside it would wait
for the end of a step, or disturb it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mlx_video.errors import MLXVideoError
from mlx_video.files.hub_cache import nothing_downloaded
from mlx_video.loading.components import open_model
from mlx_video.runs.generate import plan_generation
from mlx_video.server.asked import build_request

GB = 1e9


class PlanError(MLXVideoError):
    """A video that cannot be made as it is asked for."""


def plan_apart(
    model: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    folder: Path,
    memory_limit: float | None,
    describe: Callable[[BaseException], str],
) -> dict[str, Any]:
    """What a video would keep in memory, and what of it would be adjusted.

    Args:
        model: its folder.
        settings, inputs, folder, memory_limit: as for `build_request`.
        describe: words an error for clients.

    Raises:
        PlanError: it cannot be made; the text is clean.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        work = pool.submit(_plan, str(model), dict(settings), dict(inputs), str(folder), memory_limit)
        try:
            plan, error = work.result()
        except BrokenProcessPool as broken:
            raise PlanError("The plan could not be made: its process ended.") from broken
    if error is not None:
        raise PlanError(describe(error))
    notices = [describe(PlanError(text)) for text in plan["notices"]]
    return {**plan, "notices": notices}


def _plan(
    model: str,
    settings: dict[str, Any],
    inputs: dict[str, str],
    folder: str,
    memory_limit: float | None,
) -> tuple[dict[str, Any], Exception | None]:
    try:
        with nothing_downloaded():
            request = build_request(settings, inputs, Path(folder), memory_limit, is_plan=True)
            plan = plan_generation(request, *open_model(Path(model)))
    except MLXVideoError as error:
        return {}, PlanError(str(error))  # every other error's arguments may not fit through a pipe
    stages = [
        {"stage": stage.name, "gb": round(stage.predicted_bytes / GB, 2), "holds": stage.holds}
        for stage in plan.stages
    ]
    budget = round(plan.host.budget.nbytes / GB, 2)
    read = sum(stage.read_bytes for stage in plan.stages) / GB
    return {
        "notices": [*plan.notices],
        "stages": stages,
        "budget_gb": budget,
        "read_gb_each_step": round(read, 2),
    }, None
