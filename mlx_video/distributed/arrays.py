"""Arrays between the processes of a cluster, through `mx.distributed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_video.distributed.channel import Channel
from mlx_video.distributed.cluster import Cluster
from mlx_video.distributed.collectives import Traffic

Kinds = list[list[Any]]
"""Shape and name of the dtype of each array, as JSON."""


class ArrayExchange:
    """Passes arrays from process to process; those that take part call matching methods.

    Only neighbours of MLX's ring reach each other, so what is for all goes from each rank to the next.

    Args:
        cluster: with a group and a channel.

    Attributes:
        group: of all processes.
        traffic: what this process has sent so far.
    """

    def __init__(self, cluster: Cluster) -> None:
        assert cluster.group is not None
        assert cluster.channel is not None
        self._cluster = cluster
        self.group: mx.distributed.Group = cluster.group
        self._channel: Channel = cluster.channel
        self.traffic = Traffic()

    def send(self, arrays: Sequence[mx.array], rank: int) -> None:
        """Send arrays to a neighbour; returns when they are on their way.

        Raises:
            ClusterError: a process is lost.
        """
        with self._channel.collective():
            for array in arrays:
                self.traffic.add(array.nbytes)
                mx.eval(mx.distributed.send(_bits(array), rank, group=self.group))

    def receive(self, kinds: Kinds, rank: int) -> list[mx.array]:
        """Wait for arrays of a neighbour.

        Args:
            kinds: from :func:`kinds_of`.
            rank: of the neighbour.

        Raises:
            ClusterError: a process is lost.
        """
        with self._channel.collective():
            found = []
            for shape, name in kinds:
                dtype = mx.bool_ if name == "bool" else getattr(mx, name)
                nbytes = mx.zeros(shape, dtype).nbytes
                bits = mx.distributed.recv((max(nbytes, 1),), mx.uint8, rank, group=self.group)
                mx.eval(bits)
                found.append(bits[:nbytes].view(dtype).reshape(shape))
            return found

    def spread(self, arrays: Sequence[mx.array]) -> None:
        """Send arrays from rank 0 to all others, which call :meth:`take_spread`."""
        self.send(arrays, 1)

    def take_spread(self, kinds: Kinds) -> list[mx.array]:
        """Arrays of rank 0, passed on to the next rank."""
        arrays = self.receive(kinds, self._cluster.rank - 1)
        if self._cluster.rank + 1 < self._cluster.size:
            self.send(arrays, self._cluster.rank + 1)
        return arrays


def kinds_of(arrays: Sequence[mx.array]) -> Kinds:
    """Shapes and dtypes of arrays, for whoever receives them."""
    return [[list(array.shape), str(array.dtype).removeprefix("mlx.core.")] for array in arrays]


def _bits(array: mx.array) -> mx.array:
    """An array as bytes; one for an empty array, of which nothing could be sent."""
    return array.reshape(-1).view(mx.uint8) if array.size else mx.zeros((1,), mx.uint8)
