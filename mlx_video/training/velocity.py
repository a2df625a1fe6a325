"""What training asks of a transformer: the velocity of noisy latents, and the slopes of what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_video.conditioning.types import Conditioning
from mlx_video.errors import DatasetError
from mlx_video.models.block_context import Pass, Step
from mlx_video.models.forward import BlockSource
from mlx_video.models.transformer import token_grid
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.training.attention import attend_for_training
from mlx_video.training.trainable import Values


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Noisy latents whose velocity is asked for.

    Attributes:
        name: of the clip, for messages.
        latents: [C, T, H, W], float32.
        step: tells the timestep.
        conditioning: what the transformer is told besides.
    """

    name: str
    latents: mx.array
    step: Step
    conditioning: Conditioning


Objective = Callable[[mx.array, mx.array], mx.array]
"""A velocity and the latents that it is of, each [C, T, H, W] → what is to become less, a scalar."""


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """An objective's value and gradients, not yet evaluated.

    Attributes:
        value: a scalar.
        of_values: gradients of all trained parameters.
        of_latents: gradient of the latents that were asked about, [C, T, H, W].
    """

    value: mx.array
    of_values: Values
    of_latents: mx.array


class Network(Protocol):
    """A transformer in training, wherever its blocks are."""

    def answer(self, question: Question) -> mx.array:
        """The velocity, [C, T, H, W], evaluated and without a gradient."""

    def differentiate(self, question: Question, objective: Objective) -> Slopes:
        """What an objective of the velocity amounts to, and its gradients."""


def predict_velocity(
    transformer: VideoTransformer, question: Question, block_source: BlockSource | None = None
) -> mx.array:
    """The velocity [C, T, H, W] that a transformer predicts.

    Raises:
        DatasetError: some of the frames are references, which are no part of a clip.
    """
    told, latents = question.conditioning, question.latents
    if told.frames.leading:
        raise DatasetError(
            f"{question.name}: comes with pictures that stand before its frames, which training does not "
            "take. Leave vace_reference_image out."
        )
    grid = token_grid((latents.shape[1], latents.shape[2], latents.shape[3]), transformer.config.patch_size)
    prompt = transformer.project_text(told.context, told.image_tokens)
    forward = Pass(prompt, attention=attend_for_training)
    for add_on in told.add_ons:
        forward = add_on(transformer, forward)
    (velocity,) = transformer.predict(
        latents,
        question.step,
        [forward],
        concat_latents=told.concat_latents,
        layout=told.frames.layout(grid, told.num_first_frames),
        block_source=block_source,
    )
    return velocity
