"""Predictions of a long video, made window by window and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.context_windows import ContextWindows, Window
from mlx_video.sampling.guidance import Branch

Own = TypeVar("Own")
Predict = Callable[[mx.array, Step, Sequence[Branch]], list[mx.array]]
"""Latents [C, T, H, W] float32, the step, and branches of it → the velocity of each, of the same shape."""
PredictTogether = Callable[[Sequence[tuple[Own, mx.array]], Step, Sequence[Branch]], list[list[mx.array]]]
"""What predicts each window, with its latents, the step, and branches of it → the velocities of each."""


@dataclass(frozen=True, slots=True)
class SeenFrames:
    """What a transformer sees of a window.

    Attributes:
        numbers: of the frames among all that are sampled, in order.
        weights: how much the velocity of each counts; 0 for one that only stands before the window.
    """

    numbers: tuple[int, ...]
    weights: tuple[float, ...]


def predict_one_by_one(
    windows: Sequence[tuple[Predict, mx.array]], step: Step, branches: Sequence[Branch]
) -> list[list[mx.array]]:
    """Predict windows, each with its latents, one after the other."""
    return [predict(latents, step, branches) for predict, latents in windows]


class WindowedPredictions(Generic[Own]):
    """The velocities of all frames from those of windows, each of which is predicted like a whole video.

    They are averaged where windows overlap. For a solver that renoises, this is the average of the predicted
    videos too, since all windows have the same latents and noise level.

    Args:
        windows: which frames of the result go together.
        count: latent frames of the result.
        see: a window and its weights → what the transformer sees.
        open_window: what predicts such frames; asked once for the whole run where windows stay.
        predict: several windows, each with its latents, the step, and branches of it → velocities of each.
        at_once: how many windows are predicted at a time.
    """

    def __init__(
        self,
        windows: ContextWindows,
        count: int,
        see: Callable[[Window, Sequence[float]], SeenFrames],
        open_window: Callable[[SeenFrames], Own],
        predict: PredictTogether[Own],
        at_once: int = 1,
    ) -> None:
        self._windows = windows
        self._count = count
        self._see = see
        self._open_window = open_window
        self._predict = predict
        self._at_once = at_once
        self._opened: dict[SeenFrames, Own] = {}

    def __call__(self, latents: mx.array, step: Step, branches: Sequence[Branch]) -> list[mx.array]:
        """Predict the velocities [C, T, H, W] of latents [C, T, H, W]."""
        if not branches:
            return []
        totals = [mx.zeros(latents.shape, mx.float32) for _ in branches]
        weight_sums = mx.zeros((latents.shape[1],))
        for group in self._groups(step):
            own = [(self._open(seen), latents[:, mx.array(seen.numbers)]) for seen in group]
            for seen, velocities in zip(group, self._predict(own, step, branches), strict=True):
                numbers, weights = mx.array(seen.numbers), mx.array(seen.weights)
                weight_sums = weight_sums.at[numbers].add(weights)
                weights = weights[:, None, None]
                totals = [
                    # float32: velocities in half precision would lose digits in the sum.
                    total.at[:, numbers].add(weights * velocity.astype(mx.float32))
                    for total, velocity in zip(totals, velocities, strict=True)
                ]
            mx.eval(totals, weight_sums)  # before the activations of the next windows
        return [total / weight_sums[:, None, None] for total in totals]

    def _groups(self, step: Step) -> Iterator[list[SeenFrames]]:
        """Windows of a step that are predicted at a time, in groups of nearly even size."""
        found = self._windows.of_step(step.index, self._count)
        seen = [self._see(window, self._windows.weights(window, self._count)) for window in found]
        size = -(-len(seen) // -(-len(seen) // self._at_once))
        yield from (seen[first : first + size] for first in range(0, len(seen), size))

    def _open(self, seen: SeenFrames) -> Own:
        if self._windows.moves:
            return self._open_window(seen)
        if seen not in self._opened:
            self._opened[seen] = self._open_window(seen)
        return self._opened[seen]
