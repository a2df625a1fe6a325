"""What is planned for each of several processes is what it takes."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.distributed.ranks import run_ranks

COUNTS = [2, pytest.param(3, marks=pytest.mark.nightly)]
WITHIN = 0.15
"""Of what is found, as for one process."""


@cache
def results(count: int) -> list[dict[str, Any]]:
    """What so many processes planned and took, by rank."""
    ended = run_ranks(count, ["-m", "tests.distributed.memory_ranks"], seconds=120)
    for one in ended:
        assert one.code == 0, one.err
    return [json.loads(one.out) for one in ended]


def planned(count: int, mode: str) -> int:
    return results(count)[0][mode]["planned"]


def found(count: int, mode: str) -> int:
    """Of the process that took most."""
    return max(one[mode]["found"] for one in results(count))


@pytest.mark.sample(1)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("mode", ["context", "sharded", "decode in strips", "decode in tiles"])
def test_memory_of_a_process_is_what_is_planned(count: int, mode: str):
    assert planned(count, mode) == pytest.approx(found(count, mode), rel=WITHIN)


@pytest.mark.parametrize("count", COUNTS)
def test_memory_with_a_share_of_the_heads_is_what_is_planned_at_most(count: int):
    """Activations are planned as if all heads were here."""
    assert found(count, "tensor") < planned(count, "tensor") < 2 * found(count, "tensor")


def test_shares_of_heads_and_of_weights_take_less_than_all():
    assert all(found(2, mode) < found(2, "context") for mode in ("tensor", "sharded"))
