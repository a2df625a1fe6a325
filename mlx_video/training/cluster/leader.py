"""Rank 0 of machines that train together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import zip_longest

import mlx.core as mx

from mlx_video.distributed.arrays import ArrayExchange, kinds_of
from mlx_video.distributed.channel import Channel
from mlx_video.distributed.cluster import Cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.gradients import sum_gradients
from mlx_video.distributed.values import pack
from mlx_video.distributed.wire import Message
from mlx_video.errors import RequestError
from mlx_video.events import Notice, Work
from mlx_video.runs.cluster.machine_facts import find_facts, gather_facts, refuse_differences
from mlx_video.training.data import CachedDataset
from mlx_video.training.largest_example import LargestExample
from mlx_video.training.network import OpenNetwork
from mlx_video.training.plan import TrainingPlan
from mlx_video.training.step_gradients import ExampleLoss, StepPart, add_up
from mlx_video.training.trainable import Values


@dataclass(slots=True)
class TrainingLeader:
    """Shares out the examples of every step; the others need the model's folder and no dataset.

    A step's numbers are those of one machine but for the order in which gradients are added up, so a training
    goes on with another number of machines.

    Attributes:
        cluster: of at least two; this is its rank 0.
    """

    cluster: Cluster
    _exchange: ArrayExchange = field(init=False)
    _collectives: Collectives = field(init=False)

    def __post_init__(self) -> None:
        self._exchange = ArrayExchange(self.cluster)
        self._collectives = Collectives(self._exchange.group, self._exchange.traffic)

    def check(self, plan: TrainingPlan) -> None:
        """Make sure that all machines would compute the same.

        Raises:
            ClusterError: one differs, or is lost.
        """
        limit = plan.request.memory_limit
        facts = gather_facts(self.cluster, find_facts(plan.model, (), limit), (), limit)
        refuse_differences(self.cluster, facts)

    def begin(self, plan: TrainingPlan, examples: CachedDataset, largest: LargestExample) -> Work[None]:
        """Have the others open the network.

        Raises:
            RequestError: a step has fewer examples than there are machines.
            ClusterError: one cannot.
        """
        self._refuse_idle_machines(plan, examples)
        self._channel.send_all("train", largest=asdict(largest))
        self._channel.receive_all()  # or one has failed
        names = ", ".join(dict.fromkeys(self.cluster.hosts))
        yield Notice(f"{self.cluster.size} processes on {names} share the examples of each step.")

    def add_up(self, network: OpenNetwork, parts: Iterable[StepPart]) -> tuple[Values, list[ExampleLoss]]:
        """A `step_gradients.AddUp`; all examples of the step are in memory at once."""
        by_rank = _deal(list(parts), self.cluster.size)
        values = network.trainable.values()
        arrays = [values[name] for name in sorted(values)]
        packed = {str(rank): pack(by_rank[rank], arrays) for rank in self.cluster.others}
        mx.eval(arrays)
        self._channel.send_all("step", parts=packed, kinds=kinds_of(arrays))
        self._exchange.spread(arrays)
        del arrays
        with self._channel.jointly():
            own, losses = add_up(network, by_rank[0])
            total = sum_gradients(own, self._collectives)
        answers = self._channel.receive_all()
        told = [losses, *(_read_losses(answers[rank]) for rank in self.cluster.others)]
        return total, [one for row in zip_longest(*told) for one in row if one is not None]

    def _refuse_idle_machines(self, plan: TrainingPlan, examples: CachedDataset) -> None:
        batches, count = plan.request.gradient_accumulation, self.cluster.size
        most = max(example.table.batch_size for example in examples.examples) * batches
        if most < count:
            raise RequestError(
                "gradient_accumulation",
                f"{batches}: a step has {most} examples, too few for {count} machines. Raise it or the "
                "dataset's batch_size, or start fewer.",
            )

    @property
    def _channel(self) -> Channel:
        assert self.cluster.channel is not None
        return self.cluster.channel


def _deal(parts: list[StepPart], count: int) -> list[tuple[StepPart, ...]]:
    return [tuple(parts[rank::count]) for rank in range(count)]


def _read_losses(answer: Message) -> list[ExampleLoss]:
    return [ExampleLoss(name, value) for name, value in answer.values["losses"]]
