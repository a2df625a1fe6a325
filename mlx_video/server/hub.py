"""What happens, told to everyone who listens: from the thread that makes videos to open connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from threading import Lock
from typing import Any

_LONGEST_QUEUE = 256
_SECONDS_BETWEEN_SIGNS = 15.0
_END = ""

Listener = tuple[asyncio.AbstractEventLoop, "asyncio.Queue[str]"]


class Hub:
    """Passes events on as server-sent events; whoever comes late gets the last one of each name."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._listeners: list[Listener] = []
        self._last: dict[str, str] = {}
        self._is_closed = False

    def tell(self, name: str, data: Mapping[str, Any], *, is_kept: bool = False) -> None:
        """Tell all listeners; from any thread.

        Args:
            name: of the event.
            data: as JSON has it.
            is_kept: whether who comes later is told too.
        """
        text = f"event: {name}\ndata: {json.dumps(data)}\n\n"
        with self._lock:
            if is_kept:
                self._last[name] = text
            self._send(text)

    def forget(self, *names: str) -> None:
        """Tell those who come later nothing of these events."""
        with self._lock:
            for name in names:
                self._last.pop(name, None)

    def close(self) -> None:
        """End all streams, so that their connections close."""
        with self._lock:
            self._is_closed = True
            self._send(_END)

    def _send(self, text: str) -> None:
        for loop, queue in self._listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put, queue, text)

    async def listen(self) -> AsyncIterator[str]:
        """Events as they come, and a sign of life in between."""
        queue: asyncio.Queue[str] = asyncio.Queue(_LONGEST_QUEUE)
        listener = asyncio.get_running_loop(), queue
        with self._lock:
            self._listeners.append(listener)
            earlier = [*self._last.values()]
        try:
            yield "retry: 2000\n\n"
            for text in earlier:
                yield text
            while not self._is_closed:
                try:
                    text = await asyncio.wait_for(queue.get(), _SECONDS_BETWEEN_SIGNS)
                except TimeoutError:
                    text = ": still here\n\n"
                if text == _END:
                    return
                yield text
        finally:
            with self._lock:
                self._listeners.remove(listener)


def _put(queue: asyncio.Queue[str], text: str) -> None:
    """Pass on a text; of a listener who does not listen the oldest is dropped."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(text)
