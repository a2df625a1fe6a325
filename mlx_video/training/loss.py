"""Flow matching: the transformer is to predict noise minus latents at a random noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.frames import impose_first_frames
from mlx_video.conditioning.types import Conditioning
from mlx_video.models.block_context import Step
from mlx_video.training.example import Example, Examples
from mlx_video.training.noise_levels import NoiseLevels
from mlx_video.training.trainable import Values
from mlx_video.training.velocity import Network, Question

TIMESTEPS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class NoisyExample:
    """An example at a noise level.

    Attributes:
        name: of the clip.
        noisy: level · noise + (1 - level) · latents, [C, T, H, W]; given first frames are free of noise.
        target: noise - latents, of the same shape.
        level: 0 to 1.
        weight: of its loss.
        conditioning: what the transformer is told besides.
    """

    name: str
    noisy: mx.array
    target: mx.array
    level: float
    weight: float
    conditioning: Conditioning

    @property
    def timestep(self) -> float:
        """What the transformer sees of the level, 0 to 1000."""
        return self.level * TIMESTEPS

    @property
    def question(self) -> Question:
        """What the transformer is asked."""
        step = Step(0, 1, self.timestep, self.level, 0.0)
        return Question(self.name, self.noisy, step, self.conditioning)

    def learn(self, network: Network) -> tuple[mx.array, Values]:
        """See :class:`mlx_video.training.lesson.Lesson`."""
        slopes = network.differentiate(self.question, lambda velocity, _: velocity_loss(velocity, self))
        return slopes.value, slopes.of_values


@dataclass(frozen=True, slots=True)
class NoiseDrawing:
    """Draws a noise level and noise for each example.

    Attributes:
        seed: of the training.
        levels: of noise.
        caption_dropout: share of the examples whose caption is taken for empty.
    """

    seed: int
    levels: NoiseLevels
    caption_dropout: float = 0.0

    def describe(self) -> str:
        """Which timesteps are drawn."""
        levels = self.levels
        way = f"{levels.sampling} {levels.shift:g}" if levels.sampling == "shift" else levels.sampling
        return f"timesteps {levels.lowest * TIMESTEPS:g} to {levels.highest * TIMESTEPS:g} by {way}"

    def draw_batch(self, examples: Examples, position: int) -> list[NoisyExample]:
        """Batch number `position`, each example at a level and under noise of its own."""
        return [
            self._draw(example, examples.empty_context, (self.seed, position, place))
            for place, example in enumerate(examples.batch(position))
        ]

    def _draw(self, example: Example, empty_context: mx.array, where: Sequence[int]) -> NoisyExample:
        rng = np.random.default_rng([*where])
        level, drops = self.levels.draw(rng), rng.random() < self.caption_dropout
        noise = mx.array(rng.standard_normal(example.latents.shape, np.float32))
        conditioning = example.conditioning
        if drops:
            conditioning = replace(conditioning, context=empty_context)
        return add_noise(example.name, example.latents, noise, level, conditioning, self.levels.weight(level))


def add_noise(
    name: str,
    latents: mx.array,
    noise: mx.array,
    level: float,
    conditioning: Conditioning,
    weight: float = 1.0,
) -> NoisyExample:
    """Latents [C, T, H, W] under noise of the same shape, and what the transformer is to make of them."""
    noisy = level * noise + (1 - level) * latents
    if conditioning.first_frames is not None:
        noisy = impose_first_frames(noisy, conditioning.first_frames)
    return NoisyExample(name, noisy, noise - latents, level, weight, conditioning)


def velocity_loss(velocity: mx.array, one: NoisyExample) -> mx.array:
    """Mean square of what a predicted velocity [C, T, H, W] is off by, weighted; a scalar.

    First frames that are given are not predicted, and do not count.

    Source: modelscope/DiffSynth-Studio diffsynth/diffusion/loss.py, FlowMatchSFTLoss.
    """
    given = one.conditioning.num_first_frames
    error = (velocity - one.target)[:, given:]
    return error.square().mean() * one.weight
