"""The connections of MLX's ring, ended so that a collective which waits for a lost process gives up."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import closing, suppress

from mlx_video.distributed.launch import Address


def shut_ring(addresses: Collection[Address], kept: Collection[int]) -> None:
    """End the connections of this process from or to some addresses; MLX raises in whoever waits on them.

    Args:
        addresses: that MLX's ring listens on.
        kept: descriptors of connections that are none of MLX's.
    """
    for descriptor in set(_open_descriptors()) - set(kept):
        with suppress(OSError, ValueError), closing(socket.socket(fileno=os.dup(descriptor))) as connection:
            if {_ends(connection.getsockname()), _ends(connection.getpeername())} & set(addresses):
                connection.shutdown(socket.SHUT_RDWR)


def _open_descriptors() -> Iterator[int]:
    for name in os.listdir("/dev/fd"):
        if name.isdecimal():
            yield int(name)


def _ends(name: object) -> Address | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
