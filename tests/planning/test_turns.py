"""One thread at a time works; whoever goes on finds what the others made, and their limits gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import mlx.core as mx
import pytest

from mlx_video.planning import turns
from mlx_video.planning.mlx_limits import MLXLimits
from mlx_video.planning.turns import end_in_turn, turn

SECONDS = 20


def on_a_thread(call):
    """What a call gives on a thread of its own."""
    given: list = []
    thread = threading.Thread(target=lambda: given.append(call()))
    thread.start()
    thread.join(SECONDS)
    return given.pop()


@pytest.fixture
def other() -> Iterator[threading.Event]:
    """Another thread has its turn until the event is set."""
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        with turn():
            begun.set()
            ended.wait(SECONDS)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(SECONDS)
    yield ended
    ended.set()
    thread.join()


def test_a_turn_waits_for_the_one_of_another_thread(other: threading.Event):
    order: list[str] = []

    def work() -> None:
        with turn():
            order.append("second")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.05)
    order.append("first")
    other.set()
    thread.join(SECONDS)
    assert order == ["first", "second"]


def test_a_turn_may_hold_another():
    with turn(), turn():
        assert mx.ones(2).sum().item() == 2


def test_what_one_thread_left_uncomputed_another_computes():
    def begin() -> mx.array:
        with turn():
            return mx.ones((3, 3)) @ mx.ones((3, 3))

    left = on_a_thread(begin)
    with turn():
        assert (left + 1).sum().item() == 36


def test_the_usual_streams_are_back_after_a_turn():
    before = [mx.default_stream(device) for device in (mx.cpu, mx.default_device())], mx.default_device()
    with turn():
        assert mx.default_device() == before[1]
        assert mx.default_stream(mx.default_device()) != before[0][1]
    after = [mx.default_stream(device) for device in (mx.cpu, mx.default_device())], mx.default_device()
    assert after == before


def test_an_ending_has_its_turn():
    told: list[str] = []
    end_in_turn(lambda: told.append("ended"))
    assert told == ["ended"]


def test_an_ending_whose_turn_does_not_come_is_left_to_who_has_it(
    other: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    """As where the garbage collector ends a run on a thread for which the one at work is waiting."""
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.01)
    ended = threading.Event()
    end_in_turn(ended.set)
    assert not ended.is_set()
    other.set()
    assert ended.wait(SECONDS)


def test_an_ending_that_fails_does_not_stop_who_has_the_turn(
    other: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.01)
    ended = threading.Event()
    end_in_turn(lambda: 1 / 0)
    end_in_turn(ended.set)
    other.set()
    assert ended.wait(SECONDS)
    assert "could not be ended" in caplog.text


def test_work_under_limits_lets_no_other_thread_between():
    """Two works count in turns, each from its own thread, and none sees the other in its midst."""
    at_work: list[int] = []

    def work(number: int) -> Iterator[int]:
        for _ in range(50):
            at_work.append(number)
            yield len(at_work)
            at_work.append(-number)

    def alone(number: int) -> Iterator[int]:
        yield from MLXLimits({}).in_force(work(number))

    threads = [threading.Thread(target=lambda number=number: [*alone(number)]) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(at_work) == [-2] * 50 + [-1] * 50 + [1] * 50 + [2] * 50
