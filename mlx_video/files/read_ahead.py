"""Load things on a thread, a few ahead of the one in use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import mlx.core as mx

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

_idle: list[ThreadPoolExecutor] = []
os.register_at_fork(after_in_child=_idle.clear)  # a forked process has none of these threads


def read_ahead(
    items: Iterable[Item], load: Callable[[Item], Loaded], depth: int = 1
) -> Generator[Loaded, None, None]:
    """Load items in their order while the caller uses the ones before.

    At most `depth` + 1 loaded things exist: the one handed out, which the caller must let go before it asks
    for the next, and those being read. The reading ends with the iterator, also when the caller stops early
    or fails; a load that has begun is waited for.

    Args:
        items: what to load; is advanced on the caller's thread, and never by more than `depth` + 1.
        load: reads one item on the thread. It must not evaluate MLX arrays: what it leaves lazy belongs to
            the caller's stream and is evaluated by the caller.
        depth: how many things may be read ahead; 0 reads each when it is asked for, without a thread.

    Yields:
        What `load` returned, in the order of `items`.

    Raises:
        ValueError: `depth` is negative.
        Exception: whatever `load` raised, at the turn of that item; later items are not read.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth}, must be at least 0.")
    return _read_on_thread(iter(items), load, depth) if depth else (load(item) for item in items)


def _read_on_thread(
    waiting: Iterator[Item], load: Callable[[Item], Loaded], depth: int
) -> Generator[Loaded, None, None]:
    # MLX's streams belong to threads: on a stream of its own the thread's arrays could not be used here.
    stream = mx.default_stream(mx.default_device())

    def load_for_caller(item: Item) -> Loaded:
        with mx.stream(stream):
            return load(item)

    reads: deque[Future[Loaded]] = deque()
    with _borrowed_reader() as reader:
        try:
            reads.extend(reader.submit(load_for_caller, item) for item in islice(waiting, depth))
            while reads:
                loaded = reads[0].result()  # stays in the queue meanwhile: an interrupt must wait for it too
                reads.popleft()
                reads.extend(reader.submit(load_for_caller, item) for item in islice(waiting, 1))
                yield loaded
                # Not to be kept alive by this frame while the next is waited for.
                del loaded
        finally:
            for read in reads:
                read.cancel()
            wait(reads)


@contextmanager
def _borrowed_reader() -> Iterator[ThreadPoolExecutor]:
    """A thread that is used again: to each new one MLX would give a stream, and later a thread, for good."""
    try:
        reader = _idle.pop()
    except IndexError:
        reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        yield reader
    finally:
        _idle.append(reader)
