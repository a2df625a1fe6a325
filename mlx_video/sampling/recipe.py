"""Recipes: noise levels, solver, guidance and the split of two experts, settled together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mlx_video.models.block_context import StepCache
from mlx_video.request import SchedulerName
from mlx_video.sampling.experts import ExpertSplit, split_at_boundary
from mlx_video.sampling.guidance import ClassifierFreeGuidance, Guidance, PromptName
from mlx_video.sampling.schedule import Schedule, build_schedule

BuildStepCache = Callable[[Schedule], StepCache]

RecipeName = Literal["official"]


@dataclass(frozen=True, slots=True)
class RecipeSettings:
    """What a recipe leaves to the model and the user.

    Attributes:
        scheduler: name of the solver.
        steps: velocity evaluations of the run.
        shift: of the noise levels.
        guide_scale: (low noise, high noise); both are equal for one transformer.
        boundary: where two experts swap; None for one transformer.
        strength: below 1, how much of a video that is begun with is made anew.
    """

    scheduler: SchedulerName
    steps: int
    shift: float
    guide_scale: tuple[float, float]
    boundary: float | None = None
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that sampling is, besides the networks and the noise.

    Attributes:
        schedule: noise levels and timesteps.
        solver: name in `solvers.SOLVERS`.
        guidance: name of a transformer → its guidance.
        expert_split: which of two experts serves a step; None for one transformer.
        step_cache: builds the step cache of one branch of one transformer; None runs every block.
    """

    schedule: Schedule
    solver: SchedulerName
    guidance: Mapping[str, Guidance]
    expert_split: ExpertSplit | None = None
    step_cache: BuildStepCache | None = None

    @property
    def prompts(self) -> frozenset[PromptName]:
        """Prompts that some step may need."""
        return frozenset(prompt for one in self.guidance.values() for prompt in one.prompts)

    @property
    def most_passes(self) -> int:
        """Forwards of a step that needs all its branches."""
        return max(len(one.all_branches) for one in self.guidance.values())


def official_recipe(settings: RecipeSettings) -> Recipe:
    """Build the recipe of the official code: even noise levels under a shift, classifier-free guidance.

    Raises:
        RequestError: steps or shift are out of range.
    """
    low, high = map(ClassifierFreeGuidance, settings.guide_scale)
    schedule = build_schedule(settings.scheduler, settings.steps, settings.shift, settings.strength)
    if settings.boundary is None:
        return Recipe(schedule, settings.scheduler, MappingProxyType({"model": low}))
    guidance = MappingProxyType({"low_noise": low, "high_noise": high})
    return Recipe(schedule, settings.scheduler, guidance, split_at_boundary(settings.boundary))


RECIPES: Mapping[RecipeName, Callable[[RecipeSettings], Recipe]] = MappingProxyType(
    {"official": official_recipe}
)
