"""What training learns from: clips as latents with what the transformer is told of them, in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_video.conditioning.types import Conditioning


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One clip.

    Attributes:
        name: the clip's, for messages.
        latents: [C, T, H, W], float32.
        conditioning: what the transformer is told besides them, as a run builds it.
        seed: of the run that made the clip, where that counts.
    """

    name: str
    latents: mx.array
    conditioning: Conditioning
    seed: int | None = None


class Examples(Protocol):
    """All examples of a training, in an order of batches without an end.

    Attributes:
        batches_per_epoch: how many batches show every example once.
        empty_context: text features of the empty prompt, [n, text_dim], for caption dropout.
        identity: text that is equal for the same examples in the same order.
    """

    batches_per_epoch: int
    empty_context: mx.array

    @property
    def identity(self) -> str:
        """See above."""

    def describe(self) -> str:
        """A line for people: how many there are."""

    def batch(self, position: int) -> tuple[Example, ...]:
        """The batch of a number since the beginning, whose examples have one shape.

        It is a pure function of the seed and the position, so that a resumed training needs the position
        alone.
        """
