"""What the processes of a cluster tell each other besides arrays, and how the loss of one is noticed.

Every process has a connection with that of rank 0, over which signs of life go all the time. Collectives of
MLX wait for ever; once a process is lost, those that wait for it are ended.
"""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_video.distributed.wire import Message, Wire
from mlx_video.errors import ClusterError

_ALIVE, _LOST, _FAILED, _END = "alive", "lost", "failed", "end"
_ENDED = "has ended."
_FAILURES_AT_MOST = 1000
_LEAVE_SECONDS = 10.0
"""How long a process that has failed waits for rank 0 to end."""


class EndOfWork(Exception):
    """Rank 0 has nothing more to do."""


@dataclass(slots=True)
class _Peer:
    """One other process.

    Attributes:
        inbox: messages that nobody has taken yet; None ends the wait for more.
        heard_out: set once nothing more comes.
        loss: why it is lost; "" while it is there.
    """

    wire: Wire
    inbox: queue.SimpleQueue[Message | None] = field(default_factory=queue.SimpleQueue)
    heard_out: threading.Event = field(default_factory=threading.Event)
    loss: str = ""
    has_ended: bool = False


class Channel:
    """The connections of one process; closed by :meth:`end`.

    Args:
        wires: rank of the other process → the connection with it; only rank 0 has more than one.
        describe: a rank in words for people.
        lost_after: seconds without a sign of life after which a process counts as lost, which is the timeout
            of the connections; and how long work with others may go on once one is lost.
        abandon: ends MLX's collectives that wait for others.
    """

    def __init__(
        self,
        wires: Mapping[int, Wire],
        describe: Callable[[int], str],
        lost_after: float,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self._peers = {rank: _Peer(wire) for rank, wire in wires.items()}
        self._describe = describe
        self._abandon = abandon
        self._lost_after = lost_after
        self._interval = min(2.0, lost_after / 4)
        self._is_closing = threading.Event()
        self._first_loss: tuple[int, str] | None = None
        self._loss_known = threading.Event()
        self._last_moment = math.inf
        self._is_in_collective = False
        self.tolerates_loss = False
        for rank in self._peers:
            threading.Thread(target=self._listen, args=(rank,), daemon=True).start()
        threading.Thread(target=self._show_life, daemon=True).start()

    @property
    def present(self) -> tuple[int, ...]:
        """Ranks of the other processes that this one still hears of."""
        return tuple(rank for rank, peer in self._peers.items() if not peer.loss and not peer.has_ended)

    @property
    def is_over(self) -> bool:
        """Whether rank 0 has nothing more to do."""
        return 0 in self._peers and self._peers[0].has_ended

    def send(self, rank: int, do: str, blobs: Sequence[bytes] = (), **values: Any) -> None:
        """Send a message to another process.

        Raises:
            ClusterError: it is lost.
        """
        peer = self._peers[rank]
        try:
            peer.wire.send(Message(do, values, blobs))
        except OSError as error:
            has_ended = isinstance(error, ConnectionError)
            self._lose(rank, _ENDED if has_ended else f"takes no message ({error}).")
            raise self.error_of(rank) from error

    def send_all(self, do: str, blobs: Sequence[bytes] = (), **values: Any) -> None:
        """Send a message to all other processes; raises as :meth:`send`."""
        for rank in self._peers:
            self.send(rank, do, blobs, **values)

    def receive(self, rank: int) -> Message:
        """Wait for the next message of another process.

        Raises:
            ClusterError: it is lost, or has failed.
            EndOfWork: it was rank 0, and has nothing more to do.
        """
        peer = self._peers[rank]
        message = peer.inbox.get()
        if message is None:
            peer.inbox.put(None)
            if peer.has_ended:
                raise EndOfWork
            raise self.error_of(rank) if self.tolerates_loss else self.loss_error()
        return message

    def receive_all(self) -> dict[int, Message]:
        """The next message of every other process, by rank; raises as :meth:`receive`."""
        return {rank: self.receive(rank) for rank in self._peers}

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Let MLX's collectives wait for others in the block, but not for a process that is lost.

        Raises:
            ClusterError: one is.
        """
        if self._first_loss:
            raise self.loss_error()
        self._is_in_collective = True
        try:
            yield
        except RuntimeError as error:
            if not self._first_loss and not str(error).startswith("["):  # "[ring] connection to a peer …"
                raise
            self._loss_known.wait(3 * self._interval + 1)
            _take_further_errors()
            raise self.loss_error() from error
        finally:
            self._is_in_collective = False

    @contextmanager
    def jointly(self) -> Iterator[None]:
        """Work of rank 0 that all do together: when it fails here, nobody waits for it.

        Raises:
            ClusterError: a process is lost.
        """
        try:
            with self.collective():
                yield
        except ClusterError:
            raise
        except Exception as error:
            self.give_up(error)
            raise

    def error_of(self, rank: int) -> ClusterError:
        """The error of a process that is lost."""
        return ClusterError(f"{self._describe(rank)} {self._peers[rank].loss}")

    def loss_error(self) -> ClusterError:
        """The error of the first process that was lost."""
        if self._first_loss is None:
            return ClusterError("The connection between the machines was lost. Check the cable or network.")
        rank, text = self._first_loss
        return ClusterError(f"{self._describe(rank)} {text}")

    def fail(self, text: str) -> None:
        """Tell rank 0 that this process cannot go on; returns when it has ended, or does not for a while.

        Launchers end all processes once one has failed, and rank 0 has an error to show and a state to keep.
        """
        with suppress(ClusterError, KeyError):
            self.send(0, _FAILED, text=text)
            self._peers[0].heard_out.wait(_LEAVE_SECONDS)

    def give_up(self, error: Exception) -> None:
        """Note, as rank 0, that this process cannot go on with what all do; the others end."""
        self._note_loss(0, f"has failed: {error}")

    def end(self) -> None:
        """Tell the others that there is nothing more to do, and close the connections."""
        self._is_closing.set()
        for peer in self._peers.values():
            with suppress(OSError):
                peer.wire.send(Message(_END))
            peer.wire.close()

    def _show_life(self) -> None:
        while not self._is_closing.wait(self._interval):
            for rank in self.present:
                with suppress(ClusterError):
                    self.send(rank, _ALIVE)
            if self._is_in_collective and time.monotonic() > self._last_moment:
                self._end_process()

    def _listen(self, rank: int) -> None:
        peer = self._peers[rank]
        try:
            while self._take(rank, peer, peer.wire.receive()):
                pass
        except (EOFError, ConnectionError):
            self._lose(rank, _ENDED)
        except TimeoutError:
            self._lose(rank, "gave no sign of life for too long (--lost-after).")
        except (OSError, ValueError) as error:
            self._lose(rank, f"is lost ({error}).")
        peer.inbox.put(None)
        peer.heard_out.set()

    def _take(self, rank: int, peer: _Peer, message: Message) -> bool:
        """Take a message; returns whether more may come."""
        match message.do:
            case "alive":
                return True
            case "lost":
                self._note_loss(int(message.values["lost"]), str(message.values["text"]))
                return True
            case "failed":
                self._lose(rank, f"has failed: {message.values['text']}")
                return False
            case "end" if rank == 0:
                peer.has_ended = True
                return False
            case "end":
                self._lose(rank, "was stopped.")
                return False
        peer.inbox.put(message)
        return True

    def _lose(self, rank: int, text: str) -> None:
        peer = self._peers[rank]
        if peer.loss or peer.has_ended or self._is_closing.is_set():
            return
        peer.loss = text
        if not self.tolerates_loss:
            self._note_loss(rank, text)

    def _note_loss(self, rank: int, text: str) -> None:
        if self._first_loss:
            return
        self._first_loss = (rank, text)
        for other in self.present:
            with suppress(ClusterError):
                self.send(other, _LOST, lost=rank, text=text)
        for peer in self._peers.values():
            peer.inbox.put(None)
        self._last_moment = time.monotonic() + self._lost_after
        self._loss_known.set()
        self._abandon()

    def _end_process(self) -> None:
        """End a process whose collective nothing else ends: the loop that it waits in is not Python's."""
        os.write(sys.stderr.fileno(), f"error: {self.loss_error()}\n".encode())
        os._exit(1)


def _take_further_errors() -> None:
    """Let MLX tell of all collectives that have failed: it would in whatever work comes next."""
    for _ in range(_FAILURES_AT_MOST):
        with suppress(RuntimeError):
            mx.clear_cache()
            return
