"""The videos of a list shared out: whoever is free takes the next; a machine that fails gives its back."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mlx_video.distributed.channel import Channel
from mlx_video.distributed.cluster import Cluster
from mlx_video.errors import ClusterError, MLXVideoError
from mlx_video.events import Event, FileWritten, Notice
from mlx_video.runs.batch.item import BatchItem, BatchResult
from mlx_video.runs.batch.maker import Making
from mlx_video.runs.cluster.travelling_video import pack_request, write_results

_LOOK_SECONDS = 0.2


@dataclass(slots=True)
class _Table:
    """Items that wait, and what is told of those that others make.

    Attributes:
        waiting: for anybody.
        returned: for rank 0 alone, as another machine could not make them.
        under_way: how many other machines make.
        told: for whoever shows events.
    """

    waiting: deque[BatchItem]
    returned: deque[BatchItem] = field(default_factory=deque)
    under_way: int = 0
    told: queue.SimpleQueue[Event | BatchResult] = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> BatchItem | None:
        """The next item for another machine; None for no more."""
        with self._lock:
            if not self.waiting:
                return None
            self.under_way += 1
            return self.waiting.popleft()

    def take_here(self) -> BatchItem | None:
        """The next item for rank 0."""
        with self._lock:
            items = self.returned or self.waiting
            return items.popleft() if items else None

    def is_done(self) -> bool:
        """Whether nothing waits and nobody else works."""
        with self._lock:
            return not (self.waiting or self.returned or self.under_way)

    def put_back(self, item: BatchItem, *, is_for_all: bool) -> None:
        """Give back an item that was taken."""
        with self._lock:
            self.under_way -= 1
            (self.waiting if is_for_all else self.returned).appendleft(item)

    def finish(self) -> None:
        """Note that an item that was taken is done with."""
        with self._lock:
            self.under_way -= 1


@dataclass(frozen=True, slots=True)
class Dealer:
    """Shares out the videos of a list between this process, which is rank 0, and all others.

    Attributes:
        cluster: of at least two.
    """

    cluster: Cluster

    def deal(
        self,
        items: Sequence[BatchItem],
        settings: Mapping[int, Mapping[str, str]],
        make_here: Callable[[BatchItem], Making],
    ) -> Making:
        """Have the videos of a list made.

        Args:
            items: of which no one needs another.
            settings: index of an item → everything that makes it, as its results tell.
            make_here: makes one in this process.
        """
        table = _Table(deque(items))
        self._channel.tolerates_loss = True
        threads = [
            threading.Thread(target=self._keep_busy, args=(rank, table, settings), daemon=True)
            for rank in self._channel.present
        ]
        for thread in threads:
            thread.start()
        while not table.is_done():
            item = table.take_here()
            if item is not None:
                for told in make_here(item):
                    yield told
                    yield from _drain(table)
            else:
                yield from _drain(table, _LOOK_SECONDS)
        yield from _drain(table)

    @property
    def _channel(self) -> Channel:
        assert self.cluster.channel is not None
        return self.cluster.channel

    def _keep_busy(self, rank: int, table: _Table, settings: Mapping[int, Mapping[str, str]]) -> None:
        """Give another machine one item after another, until none is left or the machine is lost."""
        while (item := table.take()) is not None:
            try:
                self._make_there(rank, item, table, settings[item.index])
            except ClusterError as error:
                table.told.put(Notice(f"{error} {item.name} goes to another machine."))
                table.put_back(item, is_for_all=True)
                return
            except Exception as error:
                told = f"{item.name} is not made on {self.cluster.describe(rank)}: {error} It is tried here."
                table.told.put(Notice(told))
                table.put_back(item, is_for_all=False)
            else:
                table.finish()

    def _make_there(self, rank: int, item: BatchItem, table: _Table, settings: Mapping[str, str]) -> None:
        request, files, blobs = pack_request(item.request)
        table.told.put(Notice(f"{self.cluster.describe(rank)} makes {item.name}."))
        self._channel.send(
            rank, "make", blobs, request=request, files=[each.as_json() for each in files], settings=settings
        )
        message = self._channel.receive(rank)
        if message.do == "not made":
            raise MLXVideoError(message.values["text"])
        for path in write_results(item.request, message.values["files"], message.blobs):
            table.told.put(FileWritten(path))
        table.told.put(BatchResult(item.index, item.request))


def _drain(table: _Table, seconds: float = 0.0) -> Making:
    """What others have told, after a while without anything."""
    try:
        while True:
            yield table.told.get(timeout=seconds) if seconds else table.told.get_nowait()
            seconds = 0.0
    except queue.Empty:
        return
