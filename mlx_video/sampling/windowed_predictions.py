"""Predictions of a long video, made window by window and joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.context_windows import ContextWindows, Window
from mlx_video.sampling.guidance import Branch

Predict = Callable[[mx.array, Step, Sequence[Branch]], list[mx.array]]
"""Latents [C, T, H, W] float32, the step, and branches of it → the velocity of each, of the same shape."""


@dataclass(frozen=True, slots=True)
class SeenFrames:
    """What a transformer sees of a window.

    Attributes:
        numbers: of the frames among all that are sampled, in order.
        weights: how much the velocity of each counts; 0 for one that only stands before the window.
    """

    numbers: tuple[int, ...]
    weights: tuple[float, ...]


class WindowedPredictions:
    """The velocities of all frames from those of windows, each of which is predicted like a whole video.

    They are averaged where windows overlap. For a solver that renoises, this is the average of the predicted
    videos too, since all windows have the same latents and noise level.

    Args:
        windows: which frames of the result go together.
        count: latent frames of the result.
        see: a window and its weights → what the transformer sees.
        open_window: predicts such frames; asked once for the whole run where windows stay.
    """

    def __init__(
        self,
        windows: ContextWindows,
        count: int,
        see: Callable[[Window, Sequence[float]], SeenFrames],
        open_window: Callable[[SeenFrames], Predict],
    ) -> None:
        self._windows = windows
        self._count = count
        self._see = see
        self._open_window = open_window
        self._opened: dict[SeenFrames, Predict] = {}

    def __call__(self, latents: mx.array, step: Step, branches: Sequence[Branch]) -> list[mx.array]:
        """Predict the velocities [C, T, H, W] of latents [C, T, H, W]."""
        if not branches:
            return []
        totals = [mx.zeros(latents.shape, mx.float32) for _ in branches]
        weight_sums = mx.zeros((latents.shape[1],))
        for window in self._windows.of_step(step.index, self._count):
            seen = self._see(window, self._windows.weights(window, self._count))
            numbers, weights = mx.array(seen.numbers), mx.array(seen.weights)
            velocities = self._predict_of(seen)(latents[:, numbers], step, branches)
            weight_sums = weight_sums.at[numbers].add(weights)
            weights = weights[:, None, None]
            totals = [
                # float32: velocities in half precision would lose digits in the sum.
                total.at[:, numbers].add(weights * velocity.astype(mx.float32))
                for total, velocity in zip(totals, velocities, strict=True)
            ]
            mx.eval(totals, weight_sums)  # before the activations of the next window
        return [total / weight_sums[:, None, None] for total in totals]

    def _predict_of(self, seen: SeenFrames) -> Predict:
        if self._windows.moves:
            return self._open_window(seen)
        if seen not in self._opened:
            self._opened[seen] = self._open_window(seen)
        return self._opened[seen]
