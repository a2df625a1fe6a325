"""The machines of a run as this process sees them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_video.errors import ClusterError

_LAUNCHED_BY = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Variables of which `mlx.launch`, or MPI's own launcher, sets one in each process that it starts."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The processes that were started together, one on each machine as a rule.

    Attributes:
        rank: of this process, from 0.
        size: how many there are; 1 for a process that was started by itself.
        hosts: names of the machines, by rank.
        group: through which `mx.distributed` reaches the others; None where there is none.
    """

    rank: int
    size: int
    hosts: tuple[str, ...]
    group: mx.distributed.Group | None = None

    @property
    def host(self) -> str:
        """Name of this machine."""
        return self.hosts[self.rank]

    @property
    def leads(self) -> bool:
        """Whether this process owns prompts, files, progress and state: the one of rank 0."""
        return self.rank == 0

    @property
    def others(self) -> tuple[int, ...]:
        """Ranks of the other processes."""
        return tuple(rank for rank in range(self.size) if rank != self.rank)

    def describe(self, rank: int) -> str:
        """A process in words for people."""
        return f"{self.hosts[rank]} (rank {rank} of {self.size})"


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as one of several."""
    return any(name in environment for name in _LAUNCHED_BY)


def join_cluster() -> Cluster:
    """Meet the other processes; alone where this one was started by itself.

    Returns:
        Once all are there.

    Raises:
        ClusterError: others cannot be reached.
    """
    if not is_launched():
        return Cluster(0, 1, (socket.gethostname(),))
    try:
        group = mx.distributed.init()
    except (RuntimeError, ValueError) as error:
        raise ClusterError(
            f"{socket.gethostname()} (rank {os.environ.get('MLX_RANK', '?')}): the other machines cannot be "
            f"reached ({error}). Check that every host of the hostfile is up, that its address is right, and "
            "that no firewall is between them."
        ) from error
    return Cluster(group.rank(), group.size(), gather_names(group), group)


def gather_names(group: mx.distributed.Group) -> tuple[str, ...]:
    """Names of the machines of a group, by rank."""
    return tuple(text.decode(errors="replace") for text in gather_bytes(group, socket.gethostname().encode()))


def gather_bytes(group: mx.distributed.Group, own: bytes) -> list[bytes]:
    """What each process of a group gives, by rank; lengths may differ.

    Args:
        group: all of whose processes call this.
        own: of this process.
    """
    if group.size() == 1:
        return [own]
    counted = mx.distributed.all_gather(mx.array([len(own)], mx.int32), group=group)
    lengths = [int(length) for length in np.array(counted)]
    padded = mx.array(np.frombuffer(own.ljust(max(*lengths, 1), b"\0"), np.uint8))
    rows = np.array(mx.distributed.all_gather(padded[None], group=group))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
