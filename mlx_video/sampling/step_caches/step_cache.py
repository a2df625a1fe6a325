"""What a step cache is settled from, and what it gives a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_video.errors import RequestError
from mlx_video.models.block_context import Step, StepCache, TimePath
from mlx_video.sampling.experts import ExpertSplit
from mlx_video.sampling.guidance import Branch, Guidance
from mlx_video.sampling.schedule import Schedule

FEWEST_STEPS = 9  # runs of fewer steps have nothing to spare: each moves the latents far


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """A run, as far as its step cache depends on it.

    Attributes:
        variant: name of the model's variant; "" where it is not known.
        schedule: noise levels and timesteps.
        guidance: name of a transformer → its guidance.
        expert_split: which of two experts serves a step; None for one transformer.
        has_two_velocities: whether the solver asks for two in a step.
        has_image: whether an image is given.
        pixels: of a frame.
    """

    variant: str
    schedule: Schedule
    guidance: Mapping[str, Guidance]
    expert_split: ExpertSplit | None = None
    has_two_velocities: bool = False
    has_image: bool = False
    pixels: int = 0

    @property
    def steps(self) -> list[Step]:
        """Every step of the run."""
        return [self.schedule.step(index) for index in range(self.schedule.steps)]

    def serves(self, transformer: str, step: Step) -> bool:
        """Whether a transformer serves a step."""
        return self.expert_split is None or self.expert_split(step) == transformer


class PredictionCache(Protocol):
    """Stands in for whole predictions of one transformer, from the latents to the velocity."""

    def predict(
        self,
        latents: mx.array,
        step: Step,
        branches: Sequence[Branch],
        compute: Callable[[Sequence[Branch]], list[mx.array]],
    ) -> list[mx.array]:
        """Give the velocities of a step.

        Args:
            latents: [C, T, H, W], float32.
            step: the step.
            branches: of the step, in order; the first is under the prompt.
            compute: makes the velocities of some of them.

        Returns:
            [C, T, H, W] for each branch.
        """

    def state(self) -> dict[str, mx.array]:
        """What later steps need, by names of its own; empty before the first step."""

    def restore(self, state: dict[str, mx.array]) -> None:
        """Go on from what :meth:`state` returned, bit for bit.

        Raises:
            ValueError: the state is of another cache.
        """


@dataclass(frozen=True, slots=True)
class CachePlan:
    """What a step cache does in one run.

    Attributes:
        setting: the cache and its numbers, as text, for the run's record.
        new_cache: name of a transformer, a branch and the transformer's time path → the cache of its
            forwards; None for none.
        new_prediction_cache: name of a transformer → the cache of its predictions; None for none.
        notices: what to tell the user.
        stream_bytes: kept by one transformer for each number of the residual stream.
        leaves_out: transformer, branch and index of a step → whether the blocks are left out there; None
            where that is decided on the way.
    """

    setting: str
    new_cache: Callable[[str, Branch, TimePath], StepCache | None] | None = None
    new_prediction_cache: Callable[[str], PredictionCache] | None = None
    notices: tuple[str, ...] = ()
    stream_bytes: int = 0
    leaves_out: Callable[[str, Branch, int], bool] | None = None


class CacheMethod(Protocol):
    """A step cache as the user asks for it; what he leaves open is settled for the run."""

    def settle(self, facts: CacheFacts) -> CachePlan:
        """Plan it for a run.

        Raises:
            RequestError: it does not work for this run.
        """


def refuse_few_steps(facts: CacheFacts) -> None:
    """Refuse a cache for a run that has no step to spare.

    Raises:
        RequestError: it has too few.
    """
    if facts.schedule.steps < FEWEST_STEPS:
        raise RequestError(
            "step_cache",
            f"a run of {facts.schedule.steps} steps has none to spare; caches are for {FEWEST_STEPS} or "
            "more. Leave the option out.",
        )


def refuse_two_velocities(facts: CacheFacts, name: str) -> None:
    """Refuse a cache whose published numbers assume one velocity a step.

    Raises:
        RequestError: the solver asks for two.
    """
    if facts.has_two_velocities:
        raise RequestError(
            "step_cache",
            f"{name}: its numbers are measured at one velocity a step, this --scheduler asks for two. Choose "
            "--step-cache easycache, or another solver.",
        )


def num_cached_passes(facts: CacheFacts) -> int:
    """Forwards of a step whose results are kept."""
    return max(sum(map(is_cached, one.all_branches)) for one in facts.guidance.values())


def is_cached(branch: Branch) -> bool:
    """Whether a branch may use earlier work: one that leaves out blocks is there for its difference."""
    return not branch.skip_layers
