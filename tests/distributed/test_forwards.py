"""Forwards that several processes make together are those that one makes, of every kind of model and mode."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.distributed.forward_cases import CASES
from tests.distributed.ranks import run_ranks

LARGEST_ERROR = 1e-5
"""Relative: the same products in float32, of other numbers of rows, or added up in another order."""
COUNTS = (2, 3, 4)


@cache
def results(count: int) -> list[dict[str, Any]]:
    """What so many processes found, by rank."""
    ended = run_ranks(count, ["-m", "tests.distributed.forward_ranks"], seconds=120)
    for one in ended:
        assert one.code == 0, one.err
    return [json.loads(one.out) for one in ended]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", [*CASES, "vace, streamed", "4 bits, vace, streamed"])
def test_shared_tokens_give_the_velocity_of_one_process(count: int, case: str):
    assert [one["context"][case] for one in results(count)] == pytest.approx([0.0] * count, abs=LARGEST_ERROR)


@pytest.mark.parametrize("count", COUNTS)
def test_without_the_tokens_of_the_others_the_velocity_is_another(count: int):
    assert min(one["not gathered"] for one in results(count)) > 1e-3


@pytest.mark.parametrize("count", COUNTS)
def test_bytes_sent_are_those_of_the_formula(count: int):
    """Keys and values of a process's tokens to all others, in each block that runs; then the outputs."""
    for one in results(count):
        assert one["sent"] == one["expected"]
