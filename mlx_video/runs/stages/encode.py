"""The stages that turn what the user gave into conditioning, each by its units of the variant."""

from __future__ import annotations

from mlx_video.conditioning.control.units import COMMON_UNITS
from mlx_video.conditioning.units import ConditioningUnit, Fields, UnitInputs, fill_conditioning
from mlx_video.events import Work
from mlx_video.runs.inputs import ModelEncoders, check_given_masks
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import Stage


def encoding_stage(name: str) -> Stage:
    """A stage in which the units of this stage fill their fields of the conditioning.

    Args:
        name: as in :attr:`ConditioningUnit.stage`.
    """

    def needed_units(run: Run, inputs: UnitInputs) -> list[ConditioningUnit]:
        units = (*run.variant.units, *COMMON_UNITS)
        return [unit for unit in units if unit.stage == name and unit.is_needed(inputs)]

    def fill(run: Run, inputs: UnitInputs, conditioning: Fields) -> Work[Fields]:
        units = needed_units(run, inputs)
        if name == "image":
            yield from check_given_masks(inputs.masks)
        return {**conditioning, **(yield from fill_conditioning(units, inputs, ModelEncoders(run)))}

    return Stage(
        name,
        fill,
        takes=("inputs", "conditioning"),
        gives="conditioning",
        is_needed=lambda run, inputs, conditioning: bool(needed_units(run, inputs)),
    )


TEXT = encoding_stage("text")
AUDIO = encoding_stage("audio")
IMAGE = encoding_stage("image")


def give_latents_before(run: Run, conditioning: Fields) -> Work[object]:
    """What the decoder sees before the result, which outlives the rest of the conditioning."""
    yield from ()  # nothing is computed here
    return conditioning.get("latents_before")


BEFORE = Stage(
    "latents before",
    give_latents_before,
    takes=("conditioning",),
    gives="latents_before",
    is_reported=False,
)
