"""Adapters whose strength changes from step to step, checked against the run that they are for."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.request import LORA_FIELDS, GenerateRequest, LoraChoice
from mlx_video.sampling.recipe import Recipe


def check_strengths(request: GenerateRequest, recipe: Recipe) -> Iterator[Notice]:
    """Say how adapters are applied whose strength changes.

    Raises:
        RequestError: they are to be merged, have another number of strengths than steps, or stand beside a
            step cache.
    """
    for name, choice in _find_varying(request):
        count, by_step = recipe.schedule.steps, choice.by_step
        assert by_step is not None
        if request.lora_mode == "merge":
            raise RequestError(
                "lora_mode",
                f"merge: {choice} changes by step, merged weights do not. Leave the option out.",
            )
        if not by_step.is_line and len(by_step.values) != count:
            raise RequestError(
                name,
                f"{choice}: {len(by_step.values)} strengths for {count} steps. Give one for each step, or "
                "start:end.",
            )
        if recipe.step_cache:
            raise RequestError(
                "step_cache",
                f"beside {choice}: what blocks added under another strength is of no use. Leave one out.",
            )
        yield Notice(f"{choice}: the strength changes from step to step, so it runs beside the layers.")


def _find_varying(request: GenerateRequest) -> Iterator[tuple[str, LoraChoice]]:
    for name in LORA_FIELDS:
        for choice in getattr(request, name):
            if choice.by_step:
                yield name, choice
