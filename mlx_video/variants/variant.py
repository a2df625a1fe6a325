"""The record that describes one model variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mlx_video.conditioning.units import PROMPTS, ConditioningUnit
from mlx_video.config import SamplingDefaults

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What tells checkpoints apart: sizes read from tensor shapes, and which extra tensors there are."""

    in_dim: int
    out_dim: int
    dim: int
    num_layers: int
    is_dual: bool
    names: frozenset[str]

    def has_part(self, prefix: str) -> bool:
        """Whether any tensor name starts with `prefix`."""
        return any(name.startswith(prefix) for name in self.names)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Names of the request's fields that a variant needs or may get."""

    required: tuple[str, ...] = ("prompt",)
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every input that the variant takes."""
        return (*self.required, *self.optional)


ChooseSize = Callable[[int, int, int], tuple[int, int]]
"""Image height, image width, area in pixels → width and height of the video, in pixels."""


@dataclass(frozen=True, slots=True)
class LowAreaShift:
    """A shift for videos of at most `max_area` pixels a frame, in place of the default one."""

    max_area: int
    shift: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of the family: how to recognise it, what it takes, how it samples by default.

    Attributes:
        name: as in the converted config and on the command line.
        title: for people.
        model_version: "2.1" or "2.2".
        model_type: the official code's task name.
        matches: whether a checkpoint is this variant; more special variants stand earlier in VARIANTS.
        sampling: the official defaults.
        inputs: what the user gives.
        units: turn the inputs into conditioning, in the order of the run's stages.
        choose_size: the video's size where it follows the first image; None for a model that takes no image.
        low_area_shift: an official exception to the default shift.
        remark: what the converter tells the user of this model besides its name.
        remark_on_prompt: what to tell the user of a prompt that the model cannot follow, "" for nothing; None
            for a model that takes any prompt.
    """

    name: str
    title: str
    model_version: str
    model_type: str
    matches: Callable[[CheckpointFacts], bool]
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    inputs: Inputs = field(default_factory=Inputs)
    units: tuple[ConditioningUnit, ...] = (PROMPTS,)
    choose_size: ChooseSize | None = None
    low_area_shift: LowAreaShift | None = None
    remark: str = ""
    remark_on_prompt: Callable[[str], str] | None = None
