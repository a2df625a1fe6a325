"""One run: its model, request and settled settings."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mlx_video.checkpoint.model_folder import ModelFolder
from mlx_video.config import ModelConfig
from mlx_video.events import Event
from mlx_video.pipeline.plan import RunPlan, describe_run
from mlx_video.request import GenerateRequest
from mlx_video.variants.variant import Variant

Value = TypeVar("Value")
Work = Generator[Event, None, Value]
"""A stage: yields what happens and returns its result."""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that the stages need to know.

    Attributes:
        images: first and perhaps last frame, uint8 [H, W, 3] as the user gave them; none for text alone.
    """

    model: ModelFolder
    config: ModelConfig
    variant: Variant
    request: GenerateRequest
    plan: RunPlan
    images: tuple[np.ndarray, ...] = ()

    def settings(self) -> dict[str, str]:
        """Everything that made this video, as text."""
        return describe_run(self.request, self.plan, self.config.variant or self.model.path.name)
