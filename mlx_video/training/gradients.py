"""Gradients with all blocks in memory, and with all that they compute or what enters each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_video.models.block_context import (
    Block,
    BlockContext,
    CrossAttentionCache,
    PromptTokens,
)
from mlx_video.models.block_order import BlockName
from mlx_video.models.dispatch import LARGEST_ARRAY, current_limits, use_limits
from mlx_video.models.forward import BlockSource, ResidentBlocks
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.training.lesson import Lesson
from mlx_video.training.trainable import Trainable, Values
from mlx_video.training.velocity import Objective, Question, Slopes, predict_velocity

Gradients = Callable[[Lesson], tuple[mx.array, Values]]
"""A lesson → its loss and the gradients of all trained parameters, not yet evaluated."""


@dataclass(frozen=True, slots=True)
class Told:
    """What blocks read besides their tokens, as arrays of which there are gradients.

    Attributes:
        arrays: modulation of the timesteps, tokens of the text, and where there is one of the image.
    """

    arrays: tuple[mx.array, ...]

    def put_into(self, context: BlockContext) -> BlockContext:
        """A context that tells this; keys and values of the prompt are made anew."""
        modulation, text, *image = self.arrays
        return replace(
            context,
            time=replace(context.time, modulation=modulation),
            text=PromptTokens(CrossAttentionCache(text), CrossAttentionCache(image[0]) if image else None),
        )


def take_told(context: BlockContext) -> Told:
    """What a context tells."""
    prompt = context.text
    image = () if prompt.image is None else (prompt.image.tokens,)
    return Told((context.time.modulation, prompt.text.tokens, *image))


@contextmanager
def training_limits() -> Iterator[None]:
    """Keep work whole and on operations that have gradients, for the length of a `with` block.

    What is evaluated while a gradient is traced stays in memory until the end; kernels of ours have none.
    """
    whole = replace(
        current_limits(),
        seconds=1.0,
        flops_per_second=float("inf"),
        chunk_elements=LARGEST_ARRAY,
        block_tokens=LARGEST_ARRAY,
        kernels=frozenset(),
        traces_gradients=True,
    )
    with use_limits(whole):
        yield


def resident_gradients(
    transformer: VideoTransformer, trainable: Trainable, *, checkpoints: bool = True
) -> Gradients:
    """Gradients of a transformer that is in memory as a whole.

    Args:
        transformer: loaded.
        trainable: what is trained of it.
        checkpoints: keep what enters each block only, and compute the block again for its gradient.
    """
    source = CheckpointedBlocks(transformer, trainable) if checkpoints else None
    network = _ResidentNetwork(transformer, trainable, source)
    return lambda lesson: lesson.learn(network)


class _ResidentNetwork:
    """A :class:`mlx_video.training.velocity.Network` with all blocks in memory."""

    def __init__(
        self, transformer: VideoTransformer, trainable: Trainable, source: CheckpointedBlocks | None
    ) -> None:
        self._transformer = transformer
        self._trainable = trainable
        self._source = source

    def answer(self, question: Question) -> mx.array:
        return answer(self._transformer, question, None)

    def differentiate(self, question: Question, objective: Objective) -> Slopes:
        def value_of(values: Values, latents: mx.array) -> mx.array:
            with self._trainable.holding(values):
                asked = replace(question, latents=latents)
                return objective(predict_velocity(self._transformer, asked, self._source), latents)

        with training_limits():
            differentiated = mx.value_and_grad(value_of, argnums=(0, 1))
            value, slopes = differentiated(self._trainable.values(), question.latents)
        return Slopes(value, *slopes)


def answer(transformer: VideoTransformer, question: Question, block_source: BlockSource | None) -> mx.array:
    """See :meth:`mlx_video.training.velocity.Network.answer`."""
    with training_limits():
        velocity = predict_velocity(transformer, question, block_source)
        mx.eval(velocity)
    return velocity


class CheckpointedBlocks:
    """Blocks in memory whose activations are not kept for the gradient.

    Args:
        transformer: they are part of.
        trainable: its parameters.
    """

    shares_blocks = False

    def __init__(self, transformer: VideoTransformer, trainable: Trainable) -> None:
        self._blocks = ResidentBlocks(transformer)
        self._trainable = trainable

    def blocks(self, names: Sequence[BlockName]) -> Iterable[Block]:
        """See :class:`BlockSource`."""
        for name, block in zip(names, self._blocks.blocks(names), strict=True):
            yield self._checkpointed(name, block)

    def _checkpointed(self, name: BlockName, block: Block) -> Block:
        own = self._trainable.of_block(name.prefix)

        def run(x: mx.array, context: BlockContext) -> mx.array:
            def compute(own: Values, x: mx.array, *told: mx.array) -> mx.array:
                with self._trainable.holding(own):
                    return block(x, Told(told).put_into(context))

            # Only what is an argument gets a gradient.
            return mx.checkpoint(compute)(own, x, *take_told(context).arrays)

        return run
