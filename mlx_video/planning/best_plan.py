"""The choice among plans: what is fastest of what fits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Protocol

from mlx_video.models.peak import Peak
from mlx_video.planning.choices import MemoryChoices
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.memory_task import Host, MemoryTask
from mlx_video.planning.stage_plans import (
    Choice,
    count_scratch_bytes,
    first_that_fits,
    list_tiles,
    make_stage,
    plan_colours,
    plan_decode,
    plan_image,
    plan_text,
)
from mlx_video.planning.step_plans import find_heaviest, list_streaming, plan_blocks, plan_denoise


def plan_memory(task: MemoryTask, host: Host) -> MemoryPlan:
    """Choose what stays in memory: what is fastest of what fits; where nothing fits, what needs least.

    Args:
        task: the run.
        host: where it runs.

    Returns:
        The plan; its `misfits` are the stages for which the budget is too small whatever is chosen.
    """
    plan = _plan(task, host, choose=lambda choices: choices)
    whole = [] if task.blocks else [plan_decode(task, host, None)]
    if task.encodes_frames and not task.only_decodes:
        whole.append(plan_image(task, host, None))
    return replace(plan, needs_tiles=not all(stage.fits(host.budget) for stage in whole))


def fits_at_all(task: MemoryTask, host: Host) -> bool:
    """Whether there is a plan without misfits; quicker than making it."""
    return not _plan(task, host, choose=lambda choices: choices[-1:]).misfits


class Choose(Protocol):
    """Picks some of the choices, which come fastest first."""

    def __call__(self, choices: list[Choice]) -> list[Choice]:
        """The choices that are tried, in order."""


def _plan(task: MemoryTask, host: Host, choose: Choose) -> MemoryPlan:
    """Make a plan from some of the choices, which come fastest first."""
    stages, choices = [], MemoryChoices()
    tiles = choose(list(list_tiles(task)))
    if not task.only_decodes:
        if task.takes_steps:
            stages.append(plan_text(task, host))
            if task.hears_sound:
                stages.append(make_stage(task, "audio", "features of a clip", Peak(0, 0), host))
        if task.encodes_frames:
            image, tile = first_that_fits(tiles, partial(plan_image, task, host), host)
            stages, choices = [*stages, image], replace(choices, encode_tile=tile)
        if task.fits_colours:
            stages.append(plan_colours(task, host))
    if task.takes_steps and not task.only_decodes:
        weights = find_heaviest(task)
        streaming = choose(list(list_streaming(task, weights)))
        plan_steps = plan_blocks if task.blocks else plan_denoise
        denoise, streamed = first_that_fits(streaming, partial(plan_steps, task, host, weights), host)
        stages = [*stages, denoise]
        choices = replace(
            choices, resident_blocks=streamed.resident_blocks, windows_at_once=streamed.windows_at_once
        )
    if task.blocks is None:
        decode, tile = first_that_fits(tiles, partial(plan_decode, task, host), host)
        stages, choices = [*stages, decode], replace(choices, decode_tile=tile)
    return MemoryPlan(host, choices, tuple(stages), count_scratch_bytes(task, choices))
