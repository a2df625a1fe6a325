"""Direct distillation: few steps without guidance are to end where a full run of the same seed ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_video.conditioning.frames import impose_first_frames
from mlx_video.conditioning.types import Conditioning
from mlx_video.errors import DatasetError
from mlx_video.models.block_context import Step
from mlx_video.sampling.noise import draw_noise
from mlx_video.sampling.schedule import build_schedule
from mlx_video.training.example import Example, Examples
from mlx_video.training.trainable import Values
from mlx_video.training.velocity import Network, Question

SOLVER = "euler"


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The way from the noise of a seed to where a full run of that seed ended.

    Attributes:
        name: of the clip.
        noise: of the seed, [C, T, H, W].
        target: latents of the clip, of the same shape.
        steps: from pure noise on.
        conditioning: what the transformer is told besides; given first frames are held in every step.
    """

    name: str
    noise: mx.array
    target: mx.array
    steps: tuple[Step, ...]
    conditioning: Conditioning

    def learn(self, network: Network) -> tuple[mx.array, Values]:
        """See :class:`mlx_video.training.lesson.Lesson`.

        The latents of each step are made first, without a gradient; then the gradient goes back step by step,
        so that no more than one step's activations exist at a time.
        """
        ways = self._walk(network)
        *before, last = self.steps
        slopes = network.differentiate(self._ask(last, ways.pop()), self._end)
        loss, total = slopes.value, slopes.of_values
        for step in reversed(before):
            ahead = slopes.of_latents
            # One after the other: together they would keep what all blocks compute.
            mx.eval(loss, total)
            mx.eval(ahead)
            slopes = network.differentiate(self._ask(step, ways.pop()), partial(self._pull, step, ahead))
            total = {name: total[name] + slope for name, slope in slopes.of_values.items()}
        return loss, total

    def loss(self, latents: mx.array) -> mx.array:
        """Mean square of what latents [C, T, H, W] at the end are off by; a scalar.

        First frames that are given do not count.

        Source: modelscope/DiffSynth-Studio diffsynth/diffusion/loss.py, DirectDistillLoss, which neither
        holds given frames nor leaves them out.
        """
        given = self.conditioning.num_first_frames
        return (latents - self.target)[:, given:].square().mean()

    def _walk(self, network: Network) -> list[mx.array]:
        """The latents that each step begins with; evaluated."""
        ways = [self._hold(self.noise)]
        for step in self.steps[:-1]:
            velocity = network.answer(self._ask(step, ways[-1]))
            ways.append(self._go(step, velocity, ways[-1]))
            mx.eval(ways[-1])
        return ways

    def _ask(self, step: Step, latents: mx.array) -> Question:
        return Question(self.name, latents, step, self.conditioning)

    def _go(self, step: Step, velocity: mx.array, latents: mx.array) -> mx.array:
        return self._hold(latents + (step.next_sigma - step.sigma) * velocity)

    def _hold(self, latents: mx.array) -> mx.array:
        first = self.conditioning.first_frames
        return latents if first is None else impose_first_frames(latents, first)

    def _end(self, velocity: mx.array, latents: mx.array) -> mx.array:
        return self.loss(self._go(self.steps[-1], velocity, latents))

    def _pull(self, step: Step, ahead: mx.array, velocity: mx.array, latents: mx.array) -> mx.array:
        """A scalar whose gradients are those of the loss, by its gradient of the next step's latents."""
        return (self._go(step, velocity, latents) * ahead).sum()


@dataclass(frozen=True, slots=True)
class WalkDrawing:
    """Begins each example with the noise that a run draws of its seed; chance decides nothing else.

    Attributes:
        steps: of the student.
        shift: of its noise levels.
    """

    steps: int
    shift: float

    def describe(self) -> str:
        """How the student walks."""
        return f"walks of {self.steps} steps at shift {self.shift:g}"

    def draw_batch(self, examples: Examples, position: int) -> list[Walk]:
        """See :class:`mlx_video.training.lesson.Drawing`.

        Raises:
            DatasetError: an example has no seed.
        """
        return [self.begin(example) for example in examples.batch(position)]

    def begin(self, example: Example) -> Walk:
        """The walk of an example; raises as :meth:`draw_batch`."""
        if example.seed is None:
            raise DatasetError(f"{example.name}: has no seed, which its run began with. Add the column seed.")
        schedule = build_schedule(SOLVER, self.steps, self.shift)
        steps = tuple(schedule.step(index) for index in range(schedule.steps))
        noise = draw_noise("torch", example.seed, example.latents.shape)
        return Walk(example.name, noise, example.latents, steps, example.conditioning)
