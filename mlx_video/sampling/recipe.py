"""What a recipe is, what it is settled from, and what it becomes: all of sampling but networks and noise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mlx_video.config import SamplingDefaults
from mlx_video.sampling.experts import ExpertSplit
from mlx_video.sampling.guidance import Guidance, PromptName
from mlx_video.sampling.guidance_forms.form import GuidanceForm
from mlx_video.sampling.noise_levels.comfy import Levels
from mlx_video.sampling.schedule import Schedule
from mlx_video.sampling.step_caches.step_cache import CacheMethod, CachePlan

GuideScale = tuple[float, float]
"""(low noise, high noise); both are equal for one transformer."""


@dataclass(frozen=True, slots=True)
class SamplingChoices:
    """What the user asked of sampling; None leaves it to the recipe, and this to the model.

    Attributes:
        recipe: its name.
        solver: name in `solvers.table`.
        spacing: of the noise levels, a name in `noise_levels.table`.
        sigmas: noise levels in place of a spacing.
        timesteps: the same as timesteps, 1000 times the level.
        steps: of the run.
        shift: of the noise levels.
        guide_scale: see :data:`GuideScale`.
        boundary: fraction of the schedule at which two experts swap.
        expert_steps: how many steps the high-noise expert serves.
        warps: whether the shift moves the timesteps that a recipe lists.
        step_cache: what stands in for forwards.
        guidance_forms: besides the official one.
        strength: below 1, how much of a video that is begun with is made anew.
    """

    recipe: str | None = None
    solver: str | None = None
    spacing: str | None = None
    sigmas: tuple[float, ...] | None = None
    timesteps: tuple[float, ...] | None = None
    steps: int | None = None
    shift: float | None = None
    guide_scale: GuideScale | None = None
    boundary: float | None = None
    expert_steps: int | None = None
    warps: bool | None = None
    step_cache: CacheMethod | None = None
    guidance_forms: tuple[GuidanceForm, ...] = ()
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelSampling:
    """The model, as far as sampling depends on it.

    Attributes:
        model_type: the official code's task name.
        is_dual: whether two experts share the steps.
        defaults: of the model, the shift settled for the size of the video.
        variant: name of the model's variant; "" where it is not known.
        has_image: whether an image is given.
        goes_on: whether the last frames of a video are given, from which this one goes on.
        pixels: of a frame.
        inputs: names of those that are given.
        is_picture: whether one frame is made, and no video.
    """

    model_type: str
    is_dual: bool
    defaults: SamplingDefaults
    variant: str = ""
    has_image: bool = False
    goes_on: bool = False
    pixels: int = 0
    inputs: frozenset[str] = frozenset()
    is_picture: bool = False


@dataclass(frozen=True, slots=True)
class TrainedSteps:
    """The list of steps that a distilled model was trained on.

    Attributes:
        timesteps: as published.
        shift: of the table in which noise levels are looked up; None for levels of timestep / 1000.
        warps: whether a shift moves the timesteps instead, so that the network sees others.
        warp_shift: this shift.
    """

    timesteps: tuple[float, ...]
    shift: float | None = None
    warps: bool = False
    warp_shift: float = 5.0


@dataclass(frozen=True, slots=True)
class Preset:
    """One recipe, as published.

    Attributes:
        name: as the user calls it.
        names: what repositories, files and pipelines of its models are called; None for no models of its own.
        solver: name in `solvers.table`.
        steps: None for the model's.
        guide_scale: of both experts; None for the model's. A number marks distilled models.
        shifts: model type → shift; the model's where there is none.
        trained_steps: which list of steps a model takes; None for even ones.
        levels: spacing of the noise levels, from steps and shift; None for the official one.
        fps: of the result; None for the model's.
        guidance_forms: that guidance has unless the user gives others of their kind.
        guide: model, guide scale and name of a transformer → guidance of its own, which takes no further
            forms; None for the official one.
        splits_in_half: whether two experts share the steps by number, and not by noise level.
        sizes: model type → width and height in pixels and frames of the videos that it was trained on.
    """

    name: str
    names: re.Pattern[str] | None = None
    solver: str = "euler"
    steps: int | None = None
    guide_scale: float | None = None
    shifts: Mapping[str, float] = field(default_factory=dict)
    trained_steps: Callable[[ModelSampling], TrainedSteps] | None = None
    levels: Callable[[ModelSampling, int, float], Levels] | None = None
    fps: int | None = None
    guidance_forms: tuple[GuidanceForm, ...] = ()
    guide: Callable[[ModelSampling, float, str], Guidance] | None = None
    splits_in_half: bool = False
    sizes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def is_distilled(self) -> bool:
        """Whether it is for models that were trained to do without guidance."""
        return self.guide_scale is not None


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that sampling is, besides the networks and the noise.

    Attributes:
        schedule: noise levels and timesteps.
        solver: name in `solvers.table`.
        guidance: name of a transformer → its guidance.
        steps: of the solver; of one with two velocities a step, the schedule has nearly twice as many.
        shift: of the noise levels.
        guide_scale: see :data:`GuideScale`.
        expert_split: which of two experts serves a step; None for one transformer.
        boundary: noise level at which they swap; 0 where they are split by number, or there is one.
        step_cache: what stands in for forwards; None runs every block.
        settings: what decides it, as text, for the run's record and identity.
        notices: what to tell the user of it.
    """

    schedule: Schedule
    solver: str
    guidance: Mapping[str, Guidance]
    steps: int
    shift: float
    guide_scale: GuideScale
    expert_split: ExpertSplit | None = None
    boundary: float = 0.0
    step_cache: CachePlan | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notices: tuple[str, ...] = ()

    @property
    def prompts(self) -> frozenset[PromptName]:
        """Prompts that some step may need."""
        return frozenset(prompt for one in self.guidance.values() for prompt in one.prompts)

    @property
    def most_passes(self) -> int:
        """Forwards of a step that needs all its branches."""
        return max(len(one.all_branches) for one in self.guidance.values())
