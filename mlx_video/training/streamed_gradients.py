"""Gradients of blocks that are read as they are needed, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import mlx.core as mx

from mlx_video.models.block_context import Block, BlockContext
from mlx_video.models.block_order import BlockName
from mlx_video.models.forward import BlockSource
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.training.gradients import Gradients, Told, answer, take_told, training_limits
from mlx_video.training.trainable import Trainable, Values
from mlx_video.training.velocity import Objective, Question, Slopes, predict_velocity


def streamed_gradients(
    transformer: VideoTransformer, trainable: Trainable, source: BlockSource, order: Sequence[BlockName]
) -> Gradients:
    """Gradients of a transformer whose blocks come one by one, forward and then backward.

    What enters each block is kept; on the way back each is computed again for its gradient. No more than one
    block's activations are in memory, and the source reads ahead on both ways.

    Args:
        transformer: without its blocks.
        trainable: what is trained of it.
        source: of its blocks.
        order: of the main blocks; there must be no others.
    """
    network = _StreamedNetwork(transformer, trainable, source, order)
    return lambda lesson: lesson.learn(network)


class _StreamedNetwork:
    """A :class:`mlx_video.training.velocity.Network` whose blocks come one by one."""

    def __init__(
        self,
        transformer: VideoTransformer,
        trainable: Trainable,
        source: BlockSource,
        order: Sequence[BlockName],
    ) -> None:
        self._transformer = transformer
        self._trainable = trainable
        self._source = source
        self._order = order

    def answer(self, question: Question) -> mx.array:
        return answer(self._transformer, question, self._source)

    def differentiate(self, question: Question, objective: Objective) -> Slopes:
        with training_limits():
            return self._walk_there_and_back(_Ends(self._transformer, self._trainable, question, objective))

    def _walk_there_and_back(self, ends: _Ends) -> Slopes:
        order, trainable = self._order, self._trainable
        tokens, context = ends.enter()
        told = take_told(context)
        entering: list[mx.array] = []
        blocks = iter(self._source.blocks([*order, *reversed(order)]))
        for index, _ in enumerate(order):
            entering.append(tokens)
            tokens = next(blocks)(tokens, told.put_into(context.at(index)))
            mx.eval(tokens)
        behind, of_tokens = ends.leave(tokens)
        gradients = behind.of_values
        of_told = [mx.zeros(array.shape) for array in told.arrays]
        for index, name in reversed([*enumerate(order)]):
            own = trainable.of_block(name.prefix)
            names = [*own]
            run = _with_arguments(next(blocks), trainable, names, context.at(index))
            _, found = mx.vjp(run, [entering.pop(), *told.arrays, *own.values()], [of_tokens])
            of_tokens, *rest = found
            of_told = [sum_ + new for sum_, new in zip(of_told, rest, strict=False)]
            gradients |= dict(zip(names, rest[len(of_told) :], strict=True))
            mx.eval(of_tokens, of_told, [gradients[name] for name in names])
        return ends.add_entrance(behind, of_tokens, of_told)


def _with_arguments(
    block: Block, trainable: Trainable, names: Sequence[str], context: BlockContext
) -> Callable[..., mx.array]:
    """A block as a function of all that it has gradients for: its tokens, what it is told, its parameters."""
    count = len(take_told(context).arrays)

    def run(x: mx.array, *rest: mx.array) -> mx.array:
        with trainable.holding(dict(zip(names, rest[count:], strict=True))):
            return block(x, Told(rest[:count]).put_into(context))

    return run


class _Ends:
    """What is before and behind the blocks, by way of sources that run none."""

    def __init__(
        self,
        transformer: VideoTransformer,
        trainable: Trainable,
        question: Question,
        objective: Objective,
    ) -> None:
        self._transformer = transformer
        self._trainable = trainable
        self._question = question
        self._objective = objective
        self._own = trainable.of_block("")

    def _run(self, own: Values, latents: mx.array, tap: _Tap) -> mx.array:
        with self._trainable.holding(own):
            return predict_velocity(self._transformer, replace(self._question, latents=latents), tap)

    def enter(self) -> tuple[mx.array, BlockContext]:
        """The tokens that enter block 0, and its context; evaluated."""
        tap = _Tap()
        self._run({}, self._question.latents, tap)
        tokens, context = tap.entering
        mx.eval(tokens, take_told(context).arrays)
        return tokens, context

    def leave(self, tokens: mx.array) -> tuple[Slopes, mx.array]:
        """What follows from the tokens that left the last block, and the gradient of these; evaluated."""

        def value_of(own: Values, latents: mx.array, tokens: mx.array) -> mx.array:
            return self._objective(self._run(own, latents, _Tap(tokens)), latents)

        value, (gradients, of_latents, of_tokens) = mx.value_and_grad(value_of, argnums=(0, 1, 2))(
            self._own, self._question.latents, tokens
        )
        mx.eval(value, gradients, of_latents, of_tokens)
        return Slopes(value, gradients, of_latents), of_tokens

    def add_entrance(self, behind: Slopes, of_tokens: mx.array, of_told: Sequence[mx.array]) -> Slopes:
        """Slopes with those of what is before the blocks."""
        names = [*self._own]

        def enter(latents: mx.array, *own: mx.array) -> list[mx.array]:
            tap = _Tap()
            self._run(dict(zip(names, own, strict=True)), latents, tap)
            tokens, context = tap.entering
            return [tokens, *take_told(context).arrays]

        start = [self._question.latents, *self._own.values()]
        _, (of_latents, *found) = mx.vjp(enter, start, [of_tokens, *of_told])
        before = {name: behind.of_values[name] + new for name, new in zip(names, found, strict=True)}
        return Slopes(behind.value, behind.of_values | before, behind.of_latents + of_latents)


class _Tap:
    """A block source that runs no block: it notes what enters the first, and lets given tokens leave.

    Args:
        leaving: what leaves the last block; None for what entered.
    """

    shares_blocks = False

    def __init__(self, leaving: mx.array | None = None) -> None:
        self._leaving = leaving
        self._entered: list[tuple[mx.array, BlockContext]] = []

    @property
    def entering(self) -> tuple[mx.array, BlockContext]:
        """Tokens and context of block 0."""
        return self._entered[0]

    def blocks(self, names: Sequence[BlockName]) -> Iterable[Block]:
        """See :class:`BlockSource`."""

        def run(x: mx.array, context: BlockContext) -> mx.array:
            self._entered.append((x, context))
            return x if self._leaving is None else self._leaving

        return (run for _ in names)
