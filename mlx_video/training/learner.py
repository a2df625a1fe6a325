"""One step after another: examples drawn, gradients added up, values moved, and honest checks of each."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx

from mlx_video.errors import TrainingError
from mlx_video.training.example import Examples
from mlx_video.training.factors import KINDS
from mlx_video.training.log import StepRecord
from mlx_video.training.network import OpenNetwork
from mlx_video.training.optimizers import Descent, average_in
from mlx_video.training.plan import TrainingPlan
from mlx_video.training.state import TrainingState
from mlx_video.training.step_gradients import AddUp, ExampleLoss, add_up, draw_step
from mlx_video.training.trainable import Values

PATIENCE = 10
"""Steps, at least, before a parameter without a gradient ends the training."""


class Learner:
    """The values of a training on their way.

    Args:
        plan: of the training.
        examples: to learn from.
        state: to begin with.
        identity: of the training.
        gather: computes the gradients of each step.

    Attributes:
        examples, identity: as given.
        state: after the last step that is done; never of one half done.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        examples: Examples,
        state: TrainingState,
        identity: Mapping[str, str],
        gather: AddUp = add_up,
    ) -> None:
        request = plan.request
        self.identity = identity
        self.state = state
        self._plan = plan
        self._add_up = gather
        self.examples = examples
        self._descent = Descent(
            request.optimizer, request.weight_decay, plan.schedule, request.max_gradient_norm
        )
        if state.optimizer:
            self._descent.restore(state.optimizer)
        self._silent = set(state.values)
        self._patience = state.step + max(PATIENCE, plan.schedule.warm_up)

    @property
    def result(self) -> Values:
        """The values that the training is for: the moving average where there is one."""
        return self.state.average or self.state.values

    def take_step(self, network: OpenNetwork) -> StepRecord:
        """Take a step, and put its values into the network.

        Raises:
            TrainingError: a loss is not finite, or some parameters never got a gradient.
        """
        began, step = time.perf_counter(), self.state.step
        plan = self._plan
        parts = draw_step(plan.drawing, self.examples, plan.request.gradient_accumulation, step)
        gradients, losses = self._add_up(network, parts)
        _check_finite(losses, step)
        values, norm = self._descent.take_step(step, self.state.values, gradients)
        average = self.state.average
        if decay := plan.request.ema:
            # Early on the average is of few steps: 1/11, 2/12, … as diffusers and timm have it.
            average = average_in(average, values, min(decay, (step + 1) / (step + 10)))
        optimizer = self._descent.state()
        mx.eval(values, norm, optimizer, average)
        length = float(norm.item())  # type: ignore[arg-type]
        if not math.isfinite(length):
            raise TrainingError(
                f"step {step + 1}: the gradient is not finite. Lower --learning-rate, or cut with "
                "--max-gradient-norm."
            )
        network.trainable.put(values)
        self.state = TrainingState(step + 1, values, optimizer, average)
        self._check_reach(gradients)
        rate = plan.schedule.rate(step)
        loss = sum(one.value for one in losses) / len(losses)
        return StepRecord(step + 1, loss, rate, length, time.perf_counter() - began)

    def _check_reach(self, gradients: Values) -> None:
        """Refuse to go on with parameters that no gradient reaches."""
        self._silent -= {name for name in self._silent if mx.any(gradients[name] != 0).item()}
        if self.state.step != self._patience:
            return
        if zeros := sorted(self._find_zeros(self.state.values)):
            raise TrainingError(
                f"after {self.state.step} steps {zeros[0]} and {len(zeros) - 1} others are still zero: the "
                "adapter changes nothing. Raise --learning-rate."
            )
        if self._silent:
            raise TrainingError(
                f"after {self.state.step} steps no gradient has reached {len(self._silent)} of "
                f"{len(gradients)} trained parameters, first {min(self._silent)}. "
                "Leave them out with --target-modules."
            )

    def _find_zeros(self, values: Values) -> Iterable[str]:
        if self._plan.adapter is None:
            return ()
        ending = f".{KINDS[self._plan.adapter.kind].zero}"
        return (name for name, value in values.items() if name.endswith(ending) and not mx.any(value).item())


def _check_finite(losses: Sequence[ExampleLoss], step: int) -> None:
    for loss in losses:
        if not math.isfinite(loss.value):
            raise TrainingError(
                f"step {step + 1}: the loss of {loss.name} is {loss.value}. Look at that clip; if it is "
                "sound, lower --learning-rate."
            )
