"""Things are read on a thread, in order, and no further ahead than asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.files.read_ahead import read_ahead
from tests.fixtures.reader_threads import count_busy_readers

MAX_WAIT_SECONDS = 5


def wait_until(condition) -> None:
    end = time.monotonic() + MAX_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def count_threads() -> int:
    """All threads of the process, those of MLX too; it starts some only when its cache is cleared."""
    mx.clear_cache()
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_everything_is_read_once_and_in_order(depth: int):
    begun = []

    def load(item: int) -> int:
        begun.append(item)
        return item * item

    assert list(read_ahead(iter(range(9)), load, depth)) == [item * item for item in range(9)]
    assert begun == list(range(9))
    assert list(read_ahead([], load, depth)) == []


@pytest.mark.parametrize("depth", [1, 2])
def test_so_many_things_are_read_ahead_and_no_more(depth: int):
    begun = []
    reads = read_ahead(range(9), begun.append, depth)
    for used in range(1, 4):
        next(reads)
        wait_until(lambda: len(begun) == used + depth)  # noqa: B023
    time.sleep(0.02)  # time enough for a read too many
    assert len(begun) == 3 + depth
    reads.close()


def test_the_next_thing_is_read_while_the_caller_works():
    is_reading, may_read = threading.Event(), threading.Event()

    def load(item: int) -> int:
        if item:
            is_reading.set()
            assert may_read.wait(MAX_WAIT_SECONDS)
        return item

    reads = read_ahead(range(2), load)
    assert next(reads) == 0
    assert is_reading.wait(MAX_WAIT_SECONDS)
    may_read.set()
    assert next(reads) == 1


def test_without_depth_nothing_is_read_before_it_is_asked_for():
    begun = []
    reads = read_ahead(range(3), begun.append, depth=0)
    next(reads)
    assert begun == [0]
    assert count_busy_readers() == 0


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_error_comes_at_its_turn_and_ends_the_reading(depth: int):
    begun = []

    def load(item: int) -> int:
        begun.append(item)
        if item >= 2:
            raise OSError(f"block {item}")
        return item

    reads = read_ahead(range(9), load, depth)
    assert [next(reads), next(reads)] == [0, 1]
    with pytest.raises(OSError, match="block 2"):
        next(reads)
    assert len(begun) <= 3 + depth
    assert count_busy_readers() == 0
    with pytest.raises(StopIteration):
        next(reads)


def test_the_thread_is_free_when_the_caller_stops_early():
    reads = read_ahead(range(9), lambda item: item)
    next(reads)
    assert count_busy_readers() == 1
    reads.close()
    assert count_busy_readers() == 0


def test_the_thread_is_free_after_the_last_thing():
    list(read_ahead(range(3), lambda item: item))
    assert count_busy_readers() == 0


def test_a_failing_iterable_frees_the_thread_too():
    def items():
        yield 0
        raise RuntimeError("no more")

    reads = read_ahead(items(), lambda item: item)
    with pytest.raises(RuntimeError, match="no more"):
        next(reads)
    assert count_busy_readers() == 0


def test_an_interrupt_waits_for_the_load_that_has_begun():
    is_read = threading.Event()

    def load(_: int) -> None:
        time.sleep(0.3)
        is_read.set()

    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(range(3), load))
    assert is_read.is_set()
    assert count_busy_readers() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_with_threads_of_its_own():
    program = (
        "import os\nfrom mlx_video.files.read_ahead import read_ahead\n"
        "list(read_ahead(range(3), int))\nchild = os.fork()\n"
        "if child: raise SystemExit(os.waitpid(child, 0)[1])\n"
        "os._exit(list(read_ahead(range(3), int)) != [0, 1, 2])"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=60).returncode == 0


def test_a_thing_is_let_go_before_the_next_is_waited_for():
    class Block:
        alive = 0

        def __init__(self) -> None:
            Block.alive += 1

        def __del__(self) -> None:
            Block.alive -= 1

    most = 0

    def load(_: int) -> Block:
        nonlocal most
        block = Block()
        most = max(most, Block.alive)
        return block

    for block in read_ahead(range(9), load):
        del block
    assert most <= 2
    assert Block.alive == 0


def test_what_the_thread_leaves_lazy_is_computed_by_the_caller():
    def load(item: int) -> mx.array:
        return mx.array(np.full(4, 0x3F80, np.uint16)).view(mx.bfloat16) * item

    arrays = list(read_ahead(range(3), load))
    assert [array.tolist() for array in arrays] == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux lists them")
def test_many_readers_leave_no_stream_behind():
    def read_some() -> None:
        mx.eval(list(read_ahead(range(2), lambda item: mx.array(np.arange(4)) + item)))

    read_some()
    before = count_threads()
    for _ in range(20):
        read_some()
    # Fewer than one for each: other threads of the test run may come and go.
    assert count_threads() < before + 10


def test_readers_at_the_same_time_do_not_wait_for_each_other():
    may_read = threading.Event()
    waiting = read_ahead(range(2), lambda item: item == 0 or may_read.wait(MAX_WAIT_SECONDS))
    assert next(waiting)
    assert list(read_ahead(range(3), lambda item: item)) == [0, 1, 2]
    may_read.set()
    assert next(waiting), "the reading waited for the other one"


def test_a_negative_depth_is_refused():
    with pytest.raises(ValueError, match="depth is -1"):
        read_ahead(range(3), lambda item: item, depth=-1)
