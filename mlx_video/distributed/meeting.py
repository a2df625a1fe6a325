"""How the processes of a cluster find rank 0, before MLX connects them."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

from mlx_video.distributed.launch import Address, Launch
from mlx_video.distributed.wire import Message, Wire
from mlx_video.errors import ClusterError

_RETRY_SECONDS = 0.05
_HELLO_SECONDS = 5.0

Met = tuple[dict[int, Wire], tuple[str, ...]]
"""Rank → connection, and the names of all machines by rank."""


def meet(launch: Launch, meeting: Address, seconds: float) -> Met:
    """Connect with rank 0, or as rank 0 with all others.

    Rank 0 listens where MLX's ring will, which is free before MLX begins.

    Args:
        launch: what the launcher told.
        meeting: address of rank 0.
        seconds: after which those who did not come are told of; the timeout of the connections.

    Raises:
        ClusterError: somebody did not come, or was started with others.
    """
    if launch.rank == 0:
        with listen(meeting) as listener:
            return welcome(launch, listener, seconds)
    return greet(launch, meeting, seconds)


def listen(address: Address) -> socket.socket:
    """A socket that others can connect to.

    Raises:
        ClusterError: the address is not this machine's, or taken.
    """
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ClusterError(
            f"{address[0]}:{address[1]}: nothing can reach this machine there ({error.strerror or error}). "
            "Check the hostfile's first address, and that no other run uses the port (--starting-port of "
            "mlx.launch)."
        ) from error
    return listener


def welcome(launch: Launch, listener: socket.socket, seconds: float) -> Met:
    """Wait for all others, as rank 0."""
    wires: dict[int, Wire] = {}
    hosts = {0: socket.gethostname()}
    end = time.monotonic() + seconds
    while len(wires) < launch.size - 1:
        listener.settimeout(max(0.001, end - time.monotonic()))
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            raise ClusterError(_describe_absent(launch, wires.keys() | {0}, seconds)) from error
        hello = _hear(connection)
        if hello is None or hello.values.get("digest") != launch.digest:
            connection.close()  # a stranger
            continue
        rank = int(hello.values["rank"])
        connection.settimeout(seconds)
        wires[rank], hosts[rank] = Wire(connection), str(hello.values["host"])
    names = tuple(hosts[rank] for rank in range(launch.size))
    for wire in wires.values():
        wire.send(Message("welcome", {"hosts": names}))
    return wires, names


def greet(launch: Launch, meeting: Address, seconds: float) -> Met:
    """Find rank 0, as another."""
    wire = Wire(_connect(launch, meeting, seconds))
    try:
        wire.send(
            Message("hello", {"rank": launch.rank, "host": socket.gethostname(), "digest": launch.digest})
        )
        names = wire.receive().values["hosts"]
    except (OSError, EOFError) as error:
        raise ClusterError(
            f"{meeting[0]}:{meeting[1]} (rank 0 of {launch.size}) does not go on: it is not of this run, or "
            "others did not come. See what it printed."
        ) from error
    return {0: wire}, tuple(names)


def _connect(launch: Launch, meeting: Address, seconds: float) -> socket.socket:
    end = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(meeting, timeout=max(0.001, end - time.monotonic()))
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS < end:
                time.sleep(_RETRY_SECONDS)
                continue
            raise ClusterError(
                f"{meeting[0]}:{meeting[1]} (rank 0 of {launch.size}) did not answer {socket.gethostname()} "
                f"for {seconds:g} s ({error}). Check that the machine is on and the address right."
            ) from error
        connection.settimeout(seconds)
        return connection


def _hear(connection: socket.socket) -> Message | None:
    connection.settimeout(_HELLO_SECONDS)
    with suppress(OSError, EOFError, ValueError, KeyError):
        hello = Wire(connection).receive()
        return hello if hello.do == "hello" else None
    return None


def _describe_absent(launch: Launch, present: set[int], seconds: float) -> str:
    def name(rank: int) -> str:
        address = f"{launch.addresses[rank][0][0]} " if launch.addresses else ""
        return f"{address}(rank {rank} of {launch.size})"

    absent = ", ".join(name(rank) for rank in range(launch.size) if rank not in present)
    return (
        f"{absent} did not come within {seconds:g} s. Check that each is on, that its address is right, and "
        "that the command starts there (--lost-after waits longer)."
    )
