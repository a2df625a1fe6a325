"""The gradients of one step: of all its examples, here or shared out among several machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.training.example import Examples
from mlx_video.training.lesson import Drawing, Lesson
from mlx_video.training.network import OpenNetwork
from mlx_video.training.trainable import Values


@dataclass(frozen=True, slots=True, eq=False)
class StepPart:
    """One example of a step.

    Attributes:
        example: with all that chance decides of it.
        share: of it in the step's mean.
    """

    example: Lesson
    share: float


@dataclass(frozen=True, slots=True)
class ExampleLoss:
    """What became of an example.

    Attributes:
        name: of the clip.
        value: its loss.
    """

    name: str
    value: float


AddUp = Callable[[OpenNetwork, Iterable[StepPart]], tuple[Values, list[ExampleLoss]]]
"""Network and examples of a step → mean gradients, evaluated, and the losses in the order of the examples."""


def draw_step(drawing: Drawing, examples: Examples, batches: int, step: int) -> Iterator[StepPart]:
    """The examples of a step, batch by batch; batches count alike, and so do the examples of each.

    Args:
        drawing: how chance enters.
        examples: to learn from.
        batches: of a step.
        step: counts from 0.
    """
    for position in range(step * batches, (step + 1) * batches):
        drawn = drawing.draw_batch(examples, position)
        for one in drawn:
            yield StepPart(one, 1 / (len(drawn) * batches))


def add_up(network: OpenNetwork, parts: Iterable[StepPart]) -> tuple[Values, list[ExampleLoss]]:
    """An `AddUp` that computes all of it here; of no example the gradients are empty."""
    total: Values = {}
    losses: list[ExampleLoss] = []
    for part in parts:
        loss, gradients = network.gradients(part.example)
        total = {
            name: gradient * part.share + total[name] if total else gradient * part.share
            for name, gradient in gradients.items()
        }
        mx.eval(loss, total)
        losses.append(ExampleLoss(part.example.name, float(loss.item())))  # type: ignore[arg-type]
    return total, losses
