"""Turns of a process's work: MLX has one set of limits, one device and no locks, whatever thread goes on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import RLock

import mlx.core as mx

PATIENCE_SECONDS = 10.0
"""How long an ending waits for its turn before it is left to the thread that has it."""

log = logging.getLogger(__name__)

_lock = RLock()
_endings: deque[Callable[[], object]] = deque()


@contextmanager
def turn() -> Iterator[None]:
    """Have networks, limits and the device to oneself for the length of a `with` block; other threads wait.

    What is computed in turns may be gone on with on another thread: all of them use one stream of each
    device, where MLX has threads keep their own.
    """
    with _lock:
        try:
            with ExitStack() as streams:
                for device in (mx.cpu, mx.default_device().type):  # the last one becomes the default
                    streams.enter_context(mx.stream(_stream_of(device)))
                yield
        finally:
            while _endings:
                _end(_endings.popleft())


def end_in_turn(ending: Callable[[], object]) -> None:
    """Do what ends other work: in a turn, or where that does not come for long, at the end of another's.

    The garbage collector may ask for this on a thread for which whoever has the turn is waiting.
    """
    if not _lock.acquire(timeout=PATIENCE_SECONDS):
        _endings.append(ending)
        return
    try:
        with turn():
            ending()
    finally:
        _lock.release()


def _end(ending: Callable[[], object]) -> None:
    try:
        ending()
    except Exception:
        log.exception("work that was left could not be ended")


@cache
def _stream_of(device: mx.DeviceType) -> mx.Stream:
    return mx.new_thread_unsafe_stream(device)
