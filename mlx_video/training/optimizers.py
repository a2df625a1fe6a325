"""From gradients to new values: optimizers, learning rates over time, clipping, and the moving average."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import mlx.core as mx
import mlx.optimizers
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlx_video.request.train import OptimizerName, ScheduleName
from mlx_video.training.trainable import Values

_FALL_TO = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate of each step.

    Attributes:
        name: of its course behind the warm-up.
        peak: the rate that the warm-up leads to.
        warm_up: steps over which it rises.
        steps: of the training.
    """

    name: ScheduleName
    peak: float
    warm_up: int
    steps: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, which counts from 0."""
        if step < self.warm_up:
            return self.peak * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.peak * _COURSES[self.name](done)


_COURSES: Mapping[ScheduleName, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda done: 1.0,
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "linear": lambda done: 1 - done,
    }
)


def _adamw(weight_decay: float) -> mlx.optimizers.Optimizer:
    # As torch's: MLX leaves out the correction of the first steps unless it is asked for.
    return mlx.optimizers.AdamW(0.0, betas=[0.9, 0.999], weight_decay=weight_decay, bias_correction=True)


def _adafactor(weight_decay: float) -> mlx.optimizers.Optimizer:
    # With the schedule's rate in place of its own.
    return mlx.optimizers.Adafactor(
        0.0, weight_decay=weight_decay, relative_step=False, scale_parameter=False
    )


def _lion(weight_decay: float) -> mlx.optimizers.Optimizer:
    return mlx.optimizers.Lion(0.0, betas=[0.9, 0.99], weight_decay=weight_decay)


OPTIMIZERS: Mapping[OptimizerName, Callable[[float], mlx.optimizers.Optimizer]] = MappingProxyType(
    {"adamw": _adamw, "adafactor": _adafactor, "lion": _lion}
)
"""Name → weight decay → MLX's optimizer; its rate is set at every step."""


class Descent:
    """Steps of an optimizer on named values.

    Args:
        name: of the optimizer.
        weight_decay: share of a value that a step of rate 1 takes off.
        schedule: of the learning rate.
        max_gradient_norm: to which longer gradients are cut; 0 leaves them.
    """

    def __init__(
        self, name: OptimizerName, weight_decay: float, schedule: Schedule, max_gradient_norm: float
    ) -> None:
        self._optimizer = OPTIMIZERS[name](weight_decay)
        self._schedule = schedule
        self._max_gradient_norm = max_gradient_norm

    def take_step(self, step: int, values: Values, gradients: Values) -> tuple[Values, mx.array]:
        """New values, and the length of the gradient before it is cut; not evaluated.

        Args:
            step: counts from 0.
            values: of all parameters.
            gradients: of the same.
        """
        clipped, norm = clip_gradients(gradients, self._max_gradient_norm)
        self._optimizer.learning_rate = self._schedule.rate(step)
        updated = self._optimizer.apply_gradients(_flat(clipped), _flat(values))
        return _named(updated), norm

    def state(self) -> Values:
        """Arrays that later steps depend on, by name."""
        return cast(Values, dict(tree_flatten(tree_map(lambda array: array, self._optimizer.state))))

    def restore(self, state: Values) -> None:
        """Go on from what :meth:`state` returned, bit for bit."""
        self._optimizer.state = tree_unflatten(list(state.items()))


def clip_gradients(gradients: Values, max_norm: float) -> tuple[Values, mx.array]:
    """Gradients whose joint length is at most `max_norm`, and the length they had; 0 leaves them.

    Source: torch.nn.utils.clip_grad_norm_, with its 1e-6.
    """
    norm = mx.sqrt(mx.array([mx.sum(each.astype(mx.float32).square()) for each in gradients.values()]).sum())
    if not max_norm:
        return gradients, norm
    factor = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: (each * factor).astype(each.dtype) for name, each in gradients.items()}, norm


def average_in(average: Values, values: Values, decay: float) -> Values:
    """The moving average after a step: decay · average + (1 - decay) · values, not evaluated."""
    return {name: decay * average[name] + (1 - decay) * value for name, value in values.items()}


def _flat(values: Values) -> dict[str, Any]:
    """Values under names that trees of arrays do not take for paths."""
    return {name.replace(".", "/"): value for name, value in values.items()}


def _named(values: Mapping[str, Any]) -> Values:
    return {name.replace("/", "."): value for name, value in values.items()}
