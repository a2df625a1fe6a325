"""The machines of a run as this process sees them."""

from __future__ import annotations

import faulthandler
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_video.distributed.channel import Channel
from mlx_video.distributed.launch import Launch, is_launched, read_launch
from mlx_video.distributed.meeting import greet, listen, meet, welcome
from mlx_video.distributed.ring_sockets import shut_ring
from mlx_video.errors import ClusterError

LOST_AFTER = 60.0
"""Seconds without a sign of life after which a machine counts as lost, where nobody says otherwise."""
_HEAD_START = 0.05
"""Seconds in which rank 0 begins to listen for MLX; whoever comes too early waits a second."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The processes that were started together, one on each machine as a rule.

    Attributes:
        rank: of this process, from 0.
        size: how many there are; 1 for a process that was started by itself.
        hosts: names of the machines, by rank.
        group: through which `mx.distributed` reaches the others; None where there is none.
        channel: for all but arrays; None where there is nobody else.
    """

    rank: int
    size: int
    hosts: tuple[str, ...]
    group: mx.distributed.Group | None = None
    channel: Channel | None = None

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
        return describe(self.hosts, rank)


def describe(hosts: tuple[str, ...], rank: int) -> str:
    """A process among others, in words for people."""
    return f"{hosts[rank]} (rank {rank} of {len(hosts)})"


def join_cluster(lost_after: float = LOST_AFTER) -> Cluster:
    """Meet the other processes; alone where this one was started by itself.

    Args:
        lost_after: seconds to wait for the others, and later without a sign of life of one.

    Returns:
        Once all are there.

    Raises:
        ClusterError: others cannot be reached.
    """
    if not is_launched():
        return alone()
    launch = read_launch()
    if launch is None:
        return _join_through_mlx(lost_after)
    if launch.size == 1 or launch.meeting is None:
        return alone()
    wires, hosts = meet(launch, launch.meeting, lost_after)
    if launch.rank:
        time.sleep(_HEAD_START)
    group = _connect(lost_after)
    listened = [address for row in launch.addresses for address in row]
    kept = {wire.fileno for wire in wires.values()}
    channel = Channel(wires, partial(describe, hosts), lost_after, partial(shut_ring, listened, kept))
    return Cluster(launch.rank, launch.size, hosts, group, channel)


def alone() -> Cluster:
    """The cluster of a process that was started by itself."""
    return Cluster(0, 1, (socket.gethostname(),))


def _connect(seconds: float) -> mx.distributed.Group:
    """Let MLX connect the processes, which are all there.

    MLX waits for ever here, and no other thread of Python's goes on meanwhile; a process that waits much too
    long is ended with a traceback.
    """
    with suppress(OSError, ValueError, AttributeError):  # a stderr without a descriptor
        faulthandler.dump_traceback_later(seconds + 30, exit=True, file=sys.stderr)
    try:
        return mx.distributed.init(strict=True)
    except (RuntimeError, ValueError) as error:
        raise ClusterError(
            f"{socket.gethostname()}: MLX cannot connect the machines ({error}). Check that no firewall is "
            "between them, and that the hostfile's addresses are those of the links to use."
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def _join_through_mlx(lost_after: float) -> Cluster:
    """Join processes that MPI has started, of which only MLX knows how they reach each other."""
    group = _connect(lost_after)
    rank, size = group.rank(), group.size()
    if size == 1:
        return alone()
    launch = Launch(rank, size)
    if rank == 0:
        with listen(("", 0)) as listener:
            gather_bytes(group, f"{socket.gethostname()}:{listener.getsockname()[1]}".encode())
            wires, hosts = welcome(launch, listener, lost_after)
    else:
        host, _, port = gather_bytes(group, b"")[0].decode().rpartition(":")
        wires, hosts = greet(launch, (host, int(port)), lost_after)
    return Cluster(rank, size, hosts, group, Channel(wires, partial(describe, hosts), lost_after))


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
