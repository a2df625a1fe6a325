"""The recipe of models that `train_wan --task direct-distill` makes, and how their files name one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_video.errors import AdapterError
from mlx_video.sampling.recipe import Preset

# Source: modelscope/DiffSynth-Studio diffsynth/diffusion/loss.py, DirectDistillLoss.
STUDENT = Preset("direct-distill", steps=4, guide_scale=1.0)

_NAME, _STEPS, _SHIFT = "recipe", "recipe_steps", "recipe_shift"


def describe_student(steps: int, shift: float) -> dict[str, str]:
    """The recipe of a student, as texts for the header of an adapter's file.

    Args:
        steps: that it learned to do with.
        shift: of their noise levels.
    """
    return {_NAME: STUDENT.name, _STEPS: str(steps), _SHIFT: repr(shift)}


def adapt_student(steps: int, shift: float, model_type: str) -> Preset:
    """The recipe of a student of a model of some type."""
    return replace(STUDENT, steps=steps, shifts={model_type: shift})


def read_stated(
    texts: Mapping[str, str], recipes: Mapping[str, Preset], model_type: str, label: str
) -> Preset | None:
    """The recipe that the header of an adapter's file names, with the steps and the shift that it states.

    Args:
        texts: of the header.
        recipes: by name.
        model_type: the official code's task name of the model.
        label: what messages call the file.

    Returns:
        None where it names none that is known.

    Raises:
        AdapterError: steps or shift are no such numbers.
    """
    preset = recipes.get(texts.get(_NAME, ""))
    if preset is None:
        return None
    steps = _read(texts, _STEPS, int, label)
    shift = _read(texts, _SHIFT, float, label)
    return replace(
        preset,
        steps=preset.steps if steps is None else steps,
        shifts=preset.shifts if shift is None else {model_type: shift},
    )


def _read(texts: Mapping[str, str], name: str, kind: type, label: str) -> Any:
    if name not in texts:
        return None
    try:
        value = kind(texts[name])
        if not 0 < value < 1e6:
            raise ValueError(name)
    except ValueError as error:
        raise AdapterError(
            f"{label}: its metadata says {name} = {texts[name]}, which must be a positive number. Correct it "
            "there, or name a recipe with --recipe."
        ) from error
    return value
