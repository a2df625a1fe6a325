"""Columns of a list that tell of the run that made a clip: its seed, and how a student is to repeat it.

Source: modelscope/DiffSynth-Studio docs/en/Training/Direct_Distill.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_video.errors import DatasetError
from mlx_video.request.choices import MAX_SEED
from mlx_video.training.data.clips import Clip

SEED, DEVICE = "seed", "rand_device"
RUN_COLUMNS = (SEED, DEVICE, "num_inference_steps", "cfg_scale")
"""Of the clip's run the seed and where its noise was drawn; of the student's walk steps and guidance."""


def take_run(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row of a list tells of a run, as texts."""
    return {name: str(row[name]) for name in RUN_COLUMNS if row.get(name) not in (None, "")}


def read_seed(clip: Clip, steps: int) -> int:
    """The seed of the run that made a clip.

    Args:
        clip: with what its row tells.
        steps: that the student takes.

    Raises:
        DatasetError: there is none, or the row tells of another walk than the student's.
    """
    told, place = clip.run, clip.caption_place
    if SEED not in told:
        raise DatasetError(
            f"{clip.path}: {place} tells no seed, which --task direct-distill begins with. Give a list of "
            "clips, .csv or .jsonl, with a column seed; or latents that runs wrote."
        )
    seed = told[SEED]
    if not seed.isdecimal() or int(seed) > MAX_SEED:
        raise DatasetError(f"{place}: seed = {seed}: must be a whole number from 0 to 2**64-1.")
    device = told.get(DEVICE, "cpu")
    if device != "cpu":
        raise DatasetError(
            f"{place}: rand_device = {device}: noise of another device cannot be drawn here. Make the clip "
            "with noise of the cpu."
        )
    if _number(place, told, "num_inference_steps", steps) != steps:
        raise DatasetError(
            f"{place}: num_inference_steps = {told['num_inference_steps']}, and --distill-steps is {steps}. "
            "Both say how many steps are learned: give the same, or leave the column out."
        )
    if _number(place, told, "cfg_scale", 1) != 1:
        raise DatasetError(
            f"{place}: cfg_scale = {told['cfg_scale']}: the steps are learned without guidance. Write 1, or "
            "leave the column out; the clip's own run may have had any."
        )
    return int(seed)


def _number(place: str, told: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(told.get(name, default))
    except ValueError as error:
        raise DatasetError(f"{place}: {name} = {told[name]}: must be a number.") from error
