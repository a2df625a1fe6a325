"""The settings of a run as text, which stand in the metadata of what it writes."""

from __future__ import annotations

from typing import Any

from mlx_video.media.open_image import name_image
from mlx_video.media.sources.source_video import name_video
from mlx_video.request import LORA_FIELDS, GenerateRequest, Option, options_of
from mlx_video.request.generate import SPARINGLY_RECORDED
from mlx_video.request.kinds import IMAGE, PICTURES, VIDEO
from mlx_video.request.option import is_given
from mlx_video.runs.settings import RunPlan


def describe_run(request: GenerateRequest, plan: RunPlan, model: str) -> dict[str, str]:
    """All settings of a run as text, for the metadata of what it writes."""
    settled = _settled_values(request, plan)
    settings = {"model": model, "fps": str(plan.fps)}
    if plan.geometry.output_scale != 1:
        settings["output_size"] = "{}x{}".format(*plan.geometry.output_size)
    for name, declared in options_of(type(request)).items():
        value = settled.get(name, getattr(request, name))
        if declared.group in SPARINGLY_RECORDED and declared.input is None and value == declared.default:
            continue
        if declared.is_recorded(request) and is_given(value):
            settings[name] = _describe_value(declared, value)
    return settings


def _settled_values(request: GenerateRequest, plan: RunPlan) -> dict[str, object]:
    """What a run takes for options that are left open; None for those that decide nothing in it."""
    geometry = plan.geometry
    return {
        "negative_prompt": plan.negative_prompt or "",
        "scheduler": plan.recipe and plan.recipe.solver,
        "steps": plan.recipe and plan.recipe.steps,
        "shift": plan.shift,
        "guide_scale": plan.guide_scale_text,
        "boundary": plan.boundary or None,
        **(plan.recipe.settings if plan.recipe else {}),
        "width": geometry.width,
        "height": geometry.height,
        "num_frames": geometry.num_frames,
        **{name: getattr(request, name) or None for name in LORA_FIELDS},
    }


def _describe_value(declared: Option, value: Any) -> str:
    if declared.kind is IMAGE:
        return name_image(value)
    if declared.kind is VIDEO:
        return name_video(value)
    if declared.kind is PICTURES:
        return ", ".join(map(name_image, value))
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
