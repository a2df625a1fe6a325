"""What a network learns from at once: an example with all that chance decides of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from mlx_video.training.example import Examples
from mlx_video.training.trainable import Values
from mlx_video.training.velocity import Network


class Lesson(Protocol):
    """An example with all that chance decides of it; made of values that go to another machine.

    Attributes:
        name: of the clip.
    """

    @property
    def name(self) -> str:
        """See above."""

    def learn(self, network: Network) -> tuple[mx.array, Values]:
        """Its loss and the gradients of all trained parameters, not yet evaluated."""


class Drawing(Protocol):
    """How examples become lessons; whatever is drawn is a function of the seed and of where it is drawn."""

    def describe(self) -> str:
        """What is drawn, in a few words."""

    def draw_batch(self, examples: Examples, position: int) -> Sequence[Lesson]:
        """Lessons of batch number `position`."""
