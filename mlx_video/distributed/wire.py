"""Messages over one connection: a JSON object each, with bytes behind it."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

_LENGTH = struct.Struct(">I")
_LARGEST_HEADER = 1 << 26
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        do: what it is about.
        values: numbers, texts, lists and objects of JSON.
        blobs: bytes that belong to it.
    """

    do: str
    values: Mapping[str, Any] = field(default_factory=dict)
    blobs: Sequence[bytes] = ()


class Wire:
    """A connection; several threads may send, one receives.

    Args:
        connection: whose timeout holds for every wait.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._sending = threading.Lock()

    @property
    def fileno(self) -> int:
        """Number of the connection's descriptor; -1 once it is closed."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone, or takes nothing for longer than the timeout.
        """
        about = {
            "do": message.do,
            "values": dict(message.values),
            "blobs": [len(blob) for blob in message.blobs],
        }
        header = json.dumps(about).encode()
        with self._sending:
            self._connection.sendall(_LENGTH.pack(len(header)) + header)
            for blob in message.blobs:
                for begin in range(0, len(blob), _CHUNK):
                    self._connection.sendall(memoryview(blob)[begin : begin + _CHUNK])

    def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            EOFError: the other side has ended the connection.
            OSError: it is lost, or nothing comes for longer than the timeout.
            ValueError: what comes is no message.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _LARGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        about = json.loads(self._read(length))
        blobs = [self._read(size) for size in about["blobs"]]
        return Message(about["do"], about["values"], blobs)

    def close(self) -> None:
        """End the connection, also for a thread that waits for a message."""
        with suppress(OSError):  # the other side may have ended it
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            part = self._connection.recv(min(size - len(found), _CHUNK))
            if not part:
                raise EOFError
            found += part
        return bytes(found)
