"""The server as a whole: queue, worker, application and guard over one folder, until it is ended."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from mlx_video.errors import MLXVideoError
from mlx_video.server.app import Service, build_app
from mlx_video.server.clean_text import CleanTexts
from mlx_video.server.guard import LOOPBACK, Guard, known_hosts
from mlx_video.server.hub import Hub
from mlx_video.server.shelf import ModelShelf
from mlx_video.server.store import VideoStore
from mlx_video.server.worker import Worker

_LOCK = "server.lock"


class ServerError(MLXVideoError):
    """The server cannot start."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a server listens, and to whom.

    Attributes:
        host: name or address.
        port: 0 for any that is free.
        token: that clients have to bring; "" for none.
        allowed_hosts: further names by which clients may call it.
        most_bytes: of a request.
    """

    host: str
    port: int
    token: str
    allowed_hosts: Collection[str]
    most_bytes: int

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches it."""
        return self.host in LOOPBACK

    def listen(self) -> socket.socket:
        """Open the socket.

        Raises:
            ServerError: it cannot be had.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        opened = socket.socket(family)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((self.host, self.port))
            opened.listen()  # who reads the address may use it at once
        except OSError as error:
            opened.close()
            raise ServerError(
                f"{self.host}:{self.port}: cannot listen there ({error.strerror or error}). "
                "Choose another --port, or --host."
            ) from error
        return opened

    def address(self, port: int) -> str:
        """What to open in a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}/" + (f"?token={self.token}" if self.token else "")


@contextmanager
def opened_service(
    folder: Path, shelf: ModelShelf, hidden: Collection[Path], memory_limit: float | None
) -> Iterator[Service]:
    """A service over a folder, whose worker works as long as the context is open.

    Args:
        folder: of the queue and the videos.
        shelf: holds the models.
        hidden: folders that no client is told of.
        memory_limit: of every run, in GB; None for what the machine has.

    Raises:
        ServerError: another server uses the folder.
    """
    with _locked(folder):
        store, hub, texts = VideoStore(folder), Hub(), CleanTexts([folder, *hidden])
        store.put_back_interrupted()
        worker = Worker(store, shelf, folder, hub, texts, memory_limit)
        worker.start()
        try:
            yield Service(store, shelf, folder, hub, worker, texts, memory_limit)
        finally:
            hub.close()
            worker.end()
            worker.join()
            store.close()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other servers away from a folder; the lock goes with the process, however it ends."""
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServerError(
                f"{folder}: another server works there. End it, or choose another --output-dir."
            ) from error
        yield


class _Server(uvicorn.Server):
    """Ends the streams of events when it shuts down, for it waits until all connections are closed."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections."""
        self._hub.close()
        await super().shutdown(sockets)


def serve(service: Service, binding: Binding, opened: socket.socket) -> None:
    """Answer requests until the process is asked to end."""
    hosts = known_hosts(binding.host, binding.allowed_hosts)
    app = Guard(
        build_app(service),
        hosts,
        takes_addresses=not binding.is_local,
        token=binding.token,
        most_bytes=binding.most_bytes,
    )
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
    _Server(config, service.hub).run([opened])
