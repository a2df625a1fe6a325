"""Which transformer serves a timestep, and the swap at the boundary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Literal, Self

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import Velocity
from mlx_video.sampling.schedule import NUM_TRAIN_TIMESTEPS, Schedule

ExpertName = Literal["low_noise", "high_noise"]

ExpertSplit = Callable[[Step], ExpertName]
"""The expert of a step."""

OpenExpert = Callable[[ExpertName], AbstractContextManager[Velocity]]
"""Loads an expert; its memory is released when the context is left."""


def split_at_boundary(boundary: float) -> ExpertSplit:
    """The split of the official code.

    Args:
        boundary: fraction of the schedule at which, and above which, the high-noise expert serves.

    Source: Wan2.2 wan/text2video.py, WanT2V._prepare_model_for_timestep.
    """
    return lambda step: "high_noise" if step.timestep >= boundary * NUM_TRAIN_TIMESTEPS else "low_noise"


def split_at_step(high_noise_steps: int) -> ExpertSplit:
    """A split by number: the high-noise expert serves the first `high_noise_steps` steps."""
    return lambda step: "high_noise" if step.index < high_noise_steps else "low_noise"


def count_high_noise_steps(schedule: Schedule, split: ExpertSplit) -> int:
    """How many of a schedule's steps the high-noise expert serves."""
    return sum(split(schedule.step(index)) == "high_noise" for index in range(schedule.steps))


class ExpertRelay:
    """The velocity of two experts, as one function.

    An expert is loaded when its first step comes. Unless both are kept, the other is released before that, so
    a run needs the memory of one. The solver knows nothing of the swap: its history carries across, as in the
    official code.
    """

    def __init__(self, open_expert: OpenExpert, split: ExpertSplit, *, keep_both: bool = False) -> None:
        self._open_expert = open_expert
        self._split = split
        self._keep_both = keep_both
        self._loaded: dict[ExpertName, Velocity] = {}
        self._contexts = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give back the memory of every loaded expert."""
        # The velocity functions hold text features and weights: they go first.
        self._loaded.clear()
        self._contexts.close()

    def __call__(self, latents: mx.array, step: Step) -> mx.array:
        """Predict the velocity with the expert of this step.

        Args:
            latents: [C, T, H, W], float32.
            step: the step.

        Returns:
            [C, T, H, W], float32, guidance included.
        """
        name = self._split(step)
        if name not in self._loaded:
            if not self._keep_both:
                self.release()
            self._loaded[name] = self._contexts.enter_context(self._open_expert(name))
        return self._loaded[name](latents, step)
