"""Peaks of small rows of operations, worked out by hand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.memory.tape import Tape


def test_an_array_dies_after_its_last_reader():
    tape = Tape()
    first = tape.make(100, tasks=1)
    second = tape.make(10, first, tasks=1)
    tape.make(50, second, tasks=1)
    assert tape.peak(0) == 110


def test_what_is_scheduled_ahead_counts_too():
    tape = Tape()
    last = tape.make(1, tasks=1)
    for _ in range(9):
        last = tape.make(1, last, tasks=1)
    assert tape.peak(0) == 2
    assert tape.peak(3) == 5
    assert tape.peak(100) == 10


def test_nothing_is_scheduled_across_a_wait():
    tape = Tape()
    tape.wait(tape.make(7, tasks=1))
    tape.make(5, tasks=1)
    assert tape.peak(100) == 7


def test_a_variable_keeps_its_array():
    tape = Tape()
    kept = tape.make(7, tasks=1)
    tape.wait(kept)
    tape.make(5, tasks=1)
    tape.use(kept)
    assert tape.peak(0) == 12


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 3)), min_size=1, max_size=20), st.integers(0, 9))
def test_more_ahead_never_means_less_memory(operations: list[tuple[int, int]], ahead: int):
    tape, arrays = Tape(), []
    for nbytes, reads in operations:
        arrays.append(tape.make(nbytes, *arrays[-reads:] if reads else (), tasks=0.5))
    largest = max(nbytes for nbytes, _ in operations)
    assert largest <= tape.peak(0) <= tape.peak(ahead) <= tape.peak(ahead + 1)
    assert tape.peak(1000) == sum(nbytes for nbytes, _ in operations)
