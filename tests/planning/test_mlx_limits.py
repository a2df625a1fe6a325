"""MLX's limits follow the run that works, and the process's come back at the end."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest

from mlx_video.planning.budget import Budget, Machine
from mlx_video.planning.mlx_limits import MLXLimits, plan_limits

MAC = Machine(16, 1000, on_gpu=True, can_wire=True)
UNTOUCHED = {"memory": 10, "cache": 20, "wired": 0}


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """MLX's limits as a Mac has them, recorded instead of set."""
    values = dict(UNTOUCHED)

    def setter(kind: str):
        def set_limit(nbytes: int) -> int:
            before, values[kind] = values[kind], nbytes
            return before

        return set_limit

    for kind in values:
        monkeypatch.setattr(mx, f"set_{kind}_limit", setter(kind))
    return values


def test_limits_are_in_force_until_they_are_released(limits: dict[str, int]):
    own = plan_limits(MAC, Budget(500, ""), peak_bytes=400, cache_bytes=30)
    for _ in range(2):
        own.hold()
        assert limits == {"memory": 500, "cache": 30, "wired": 400}
    own.release()
    assert limits == UNTOUCHED
    own.release()
    assert limits == UNTOUCHED


def test_no_more_is_wired_than_the_machine_recommends(limits: dict[str, int]):
    own = plan_limits(MAC, Budget(2000, ""), peak_bytes=2000, cache_bytes=30)
    own.hold()
    assert limits["wired"] == 900
    own.release()


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_runs_in_turns_have_each_their_own_and_end_in_any_order(limits: dict[str, int], first_to_end: int):
    runs = [plan_limits(MAC, Budget(size, ""), size, size) for size in (500, 300)]
    for run in (*runs, *runs):
        run.hold()
        assert limits == {kind: run.values["memory"] for kind in limits}
    runs[first_to_end].release()
    other = runs[1 - first_to_end]
    other.hold()
    assert limits["memory"] == other.values["memory"]
    other.release()
    assert limits == UNTOUCHED


def test_without_a_gpu_only_the_memory_limit_is_set(limits: dict[str, int]):
    own = plan_limits(Machine(16, 1000), Budget(500, ""), 400, 30)
    own.hold()
    assert limits == {"memory": 500, "cache": 20, "wired": 0}
    own.release()


def test_mlx_takes_the_limit_and_gives_it_back():
    before = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(before)
    own = plan_limits(Machine(16, 1000), Budget(123_456_789, ""), 400, 30)
    own.hold()
    inside = mx.set_memory_limit(123_456_789)
    own.release()
    after = mx.set_memory_limit(before)
    assert (inside, after) == (123_456_789, before)


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_a_conversion_and_a_run_in_turns_have_each_their_own(limits: dict[str, int], first_to_end: int):
    def work(seen: list[dict[str, int]]) -> Iterator[int]:
        while True:
            seen.append(dict(limits))
            yield len(seen)

    seen: tuple[list, list] = ([], [])
    small_cache, whole = MLXLimits({"cache": 5}), plan_limits(MAC, Budget(500, ""), 400, 30)
    works = [one.in_force(work(own)) for one, own in zip((small_cache, whole), seen, strict=True)]
    for _ in range(3):
        for one in works:
            next(one)
    works[first_to_end].close()
    next(works[1 - first_to_end])
    works[1 - first_to_end].close()
    assert limits == UNTOUCHED
    assert all(one == UNTOUCHED | {"cache": 5} for one in seen[0])
    assert all(one == {"memory": 500, "cache": 30, "wired": 400} for one in seen[1])


def test_work_under_limits_returns_its_result_and_is_closed_with_them(limits: dict[str, int]):
    ended = []

    def work() -> Iterator[int]:
        try:
            yield 1
        finally:
            ended.append(dict(limits))
        return 2

    one = MLXLimits({"memory": 7}).in_force(work())
    assert next(one) == 1
    with pytest.raises(StopIteration) as caught:
        next(one)
    assert caught.value.value == 2
    left = MLXLimits({"memory": 7}).in_force(work())
    next(left)
    left.close()
    assert ended == [UNTOUCHED | {"memory": 7}] * 2
    assert limits == UNTOUCHED
