"""The network that is trained, opened: in memory as a whole, or streamed, with what is trained of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_video.errors import RequestError
from mlx_video.loading.components import load_transformer
from mlx_video.loading.residency import resident
from mlx_video.loading.streamed_transformer import open_streamed_transformer
from mlx_video.models.block_order import BlockName
from mlx_video.training.adapter import Adapter
from mlx_video.training.gradients import Gradients, resident_gradients
from mlx_video.training.plan import TrainingPlan, fits_parameter
from mlx_video.training.streamed_gradients import streamed_gradients
from mlx_video.training.trainable import Trainable


@dataclass(frozen=True, slots=True)
class OpenNetwork:
    """A network in memory.

    Attributes:
        trainable: what is trained of it.
        gradients: of an example's loss.
    """

    trainable: Trainable
    gradients: Gradients


@contextmanager
def open_network(plan: TrainingPlan, adapter: Adapter | None) -> Iterator[OpenNetwork]:
    """Load the network of a training; it is released at the end, the adapter is not.

    Args:
        plan: of the training.
        adapter: that is trained; None where the transformer's own weights are.

    Raises:
        CheckpointError, ConfigError: as `load_transformer`.
        RequestError: nothing of the transformer is called as `target_modules` says.
    """
    if plan.streams:
        assert adapter is not None  # own weights are not streamed
        with _open_streamed(plan, adapter) as network:
            yield network
        return
    dtype = None if adapter else mx.float32  # small changes would be lost in the rounding of others
    with resident(
        lambda: load_transformer(plan.model, plan.config, plan.transformer, dtype=dtype)
    ) as transformer:
        if adapter:
            adapter.attach(transformer)
        trainable = adapter.trainable if adapter else own_weights(transformer, plan.request.target_modules)
        checkpoints = plan.checkpoints
        yield OpenNetwork(trainable, resident_gradients(transformer, trainable, checkpoints=checkpoints))


@contextmanager
def _open_streamed(plan: TrainingPlan, adapter: Adapter) -> Iterator[OpenNetwork]:
    def attach(name: BlockName, block: nn.Module) -> None:
        adapter.attach(block, name.prefix)

    with open_streamed_transformer(plan.model, plan.config, plan.transformer, 0, prepare_block=attach) as (
        transformer,
        blocks,
    ):
        adapter.attach(transformer)
        order = plan.network.block_order(plan.config.transformer)
        yield OpenNetwork(
            adapter.trainable, streamed_gradients(transformer, adapter.trainable, blocks, order)
        )


def own_weights(transformer: nn.Module, targets: tuple[str, ...]) -> Trainable:
    """A transformer's own parameters.

    Args:
        transformer: loaded.
        targets: beginnings or ends of the parameters' names, or regular expressions; none for all.

    Raises:
        RequestError: one fits no parameter.
    """
    modules = dict(transformer.named_modules())
    parameters: list[tuple[str, mx.array]] = tree_flatten(transformer.parameters())  # type: ignore[assignment]
    names = [name for name, _ in parameters]
    chosen = [
        name for name in names if not targets or any(fits_parameter(target, name) for target in targets)
    ]
    for target in targets:
        if not any(fits_parameter(target, name) for name in chosen):
            raise RequestError("target_modules", f"{target}: fits no parameter, such as {names[0]}.")
    places: dict[str, tuple[nn.Module, str]] = {}
    for name in chosen:
        path, _, leaf = name.rpartition(".")
        places[name] = modules[path], leaf
    return Trainable(places)
