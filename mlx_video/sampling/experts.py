"""Which transformer serves a timestep, and the swap at the boundary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Literal, Self

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_video.sampling.guidance import Velocity
from mlx_video.sampling.schedule import NUM_TRAIN_TIMESTEPS

ExpertName = Literal["low_noise", "high_noise"]
EXPERTS: tuple[ExpertName, ...] = ("high_noise", "low_noise")  # in the order of a run

OpenExpert = Callable[[ExpertName], AbstractContextManager[Velocity]]
"""Loads an expert; its memory is released when the context is left."""


def choose_expert(timestep: float, boundary: float) -> ExpertName:
    """The expert of a timestep.

    Args:
        timestep: 0 to 1000, as the transformer sees it.
        boundary: fraction of the schedule at which, and above which, the high-noise expert serves.

    Source: Wan2.2 wan/text2video.py, WanT2V._prepare_model_for_timestep.
    """
    return "high_noise" if timestep >= boundary * NUM_TRAIN_TIMESTEPS else "low_noise"


def count_high_noise_steps(timesteps: npt.NDArray[np.generic], boundary: float) -> int:
    """How many of a schedule's steps, from its first on, the high-noise expert serves."""
    return sum(choose_expert(float(timestep), boundary) == "high_noise" for timestep in timesteps)


class ExpertRelay:
    """The velocity of two experts, as one function.

    An expert is loaded when its first step comes. Unless both are kept, the other is released before that, so
    a run needs the memory of one. The solver knows nothing of the swap: its history carries across, as in the
    official code.
    """

    def __init__(self, open_expert: OpenExpert, boundary: float, *, keep_both: bool = False) -> None:
        self._open_expert = open_expert
        self._boundary = boundary
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

    def __call__(self, latents: mx.array, step: int, timestep: float) -> mx.array:
        """Predict the velocity with the expert of this timestep.

        Args:
            latents: [C, T, H, W], float32.
            step: counts from 0.
            timestep: 0 to 1000.

        Returns:
            [C, T, H, W], float32, guidance included.
        """
        name = choose_expert(timestep, self._boundary)
        if name not in self._loaded:
            if not self._keep_both:
                self.release()
            self._loaded[name] = self._contexts.enter_context(self._open_expert(name))
        return self._loaded[name](latents, step, timestep)
