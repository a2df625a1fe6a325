"""What a launcher tells the processes that it starts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_video.errors import ClusterError

Address = tuple[str, int]
"""Host or its IP, and port."""

_MPI = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        rank: its own.
        size: how many there are.
        addresses: of each, by rank, that MLX's ring connects; none for other backends.
        meeting: of rank 0, where all others can reach it; None where MLX alone knows.
        digest: of what the launcher told, which is the same for all.
    """

    rank: int
    size: int
    addresses: tuple[tuple[Address, ...], ...] = ()
    meeting: Address | None = None
    digest: str = ""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as one of several."""
    return any(name in environment for name in ("MLX_RANK", *_MPI))


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What the launcher told this process; None where MPI told it to MLX alone.

    Raises:
        ClusterError: what it told cannot be read.
    """
    if "MLX_RANK" not in environment:
        return None
    try:
        rank = int(environment["MLX_RANK"])
        if "MLX_IBV_DEVICES" in environment:
            return _read_rdma(rank, environment)
        return _read_ring(rank, environment.get("MLX_HOSTFILE", ""))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ClusterError(
            f"MLX_RANK {environment['MLX_RANK']}: what the launcher told of the other machines cannot be "
            f"read ({error}). Start the command with mlx.launch."
        ) from error


def _read_ring(rank: int, hostfile: str) -> Launch:
    text = Path(hostfile).read_text() if hostfile else ""
    rows = json.loads(text) if text.strip() else []
    if len(rows) < 2:
        return Launch(0, 1)
    addresses = tuple(tuple(map(_address, row)) for row in rows)
    return Launch(rank, len(rows), addresses, addresses[0][0], _digest(text))


def _read_rdma(rank: int, environment: Mapping[str, str]) -> Launch:
    text, coordinator = Path(environment["MLX_IBV_DEVICES"]).read_text(), environment["MLX_JACCL_COORDINATOR"]
    return Launch(rank, len(json.loads(text)), (), _address(coordinator), _digest(text + coordinator))


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
