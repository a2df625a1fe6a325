"""Another machine than rank 0 in a training."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_video.distributed.arrays import ArrayExchange
from mlx_video.distributed.channel import Channel, EndOfWork
from mlx_video.distributed.cluster import Cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.gradients import sum_gradients
from mlx_video.distributed.values import unpack
from mlx_video.distributed.wire import Message
from mlx_video.events import Event, finish
from mlx_video.loading.residency import release_memory
from mlx_video.runs.cluster.machine_facts import answer_facts
from mlx_video.training.adapter import Adapter
from mlx_video.training.fit import fit_training
from mlx_video.training.largest_example import LargestExample
from mlx_video.training.network import OpenNetwork, open_network
from mlx_video.training.plan import TrainingPlan
from mlx_video.training.step_gradients import add_up


@dataclass(slots=True)
class TrainingFollower:
    """Computes gradients of the examples that rank 0 sends, at the values that it sends.

    Attributes:
        cluster: of at least two; this is not its rank 0.
        plan: of the training.
    """

    cluster: Cluster
    plan: TrainingPlan
    _exchange: ArrayExchange = field(init=False)
    _collectives: Collectives = field(init=False)

    def __post_init__(self) -> None:
        self._exchange = ArrayExchange(self.cluster)
        self._collectives = Collectives(self._exchange.group, self._exchange.traffic)

    def serve(self) -> None:
        """Do what rank 0 asks for, until it has no more to do.

        Raises:
            MLXVideoError: this machine cannot go on; rank 0 is to be told.
        """
        with suppress(EndOfWork):
            while True:
                message = self._channel.receive(0)
                if message.do == "facts":
                    answer_facts(self.cluster, self.plan.model, message)
                else:
                    self._train(LargestExample(**message.values["largest"]))

    def _train(self, largest: LargestExample) -> None:
        fitted = fit_training(self.plan, largest)
        try:
            finish(fitted.limits.in_force(self._take_part(fitted.plan)), lambda event: None)
        finally:
            release_memory()

    def _take_part(self, plan: TrainingPlan) -> Generator[Event, None, None]:
        """Work without events, which goes on under the limits of the training."""
        yield from ()
        adapter = None if plan.adapter is None else Adapter(plan.adapter, plan.request.seed)
        with open_network(plan, adapter) as network:
            self._channel.send(0, "ready")
            while True:
                self._take_step(network, self._channel.receive(0))

    def _take_step(self, network: OpenNetwork, message: Message) -> None:
        told: Any = message.values
        arrays = self._exchange.take_spread(told["kinds"])
        names = sorted(network.trainable.names)
        network.trainable.put(dict(zip(names, arrays, strict=False)))
        parts = unpack(told["parts"][str(self.cluster.rank)], arrays)
        total, losses = add_up(network, parts)
        with self._channel.collective():
            own = total or {name: mx.zeros_like(each) for name, each in network.trainable.values().items()}
            sum_gradients(own, self._collectives)
        self._channel.send(0, "losses", losses=[[one.name, one.value] for one in losses])

    @property
    def _channel(self) -> Channel:
        assert self.cluster.channel is not None
        return self.cluster.channel
