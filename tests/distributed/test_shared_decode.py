"""Frames that several processes decode together are those that one decodes."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.distributed.decode_ranks import CLIPS
from tests.distributed.ranks import run_ranks
from tests.models.vae.tiny_vae import NETWORK

COUNTS = [2, 3, pytest.param(4, marks=pytest.mark.nightly)]


@cache
def results(count: int) -> list[dict[str, Any]]:
    """What so many processes found, by rank."""
    ended = run_ranks(count, ["-m", "tests.distributed.decode_ranks"], seconds=120)
    for one in ended:
        assert one.code == 0, one.err
    return [json.loads(one.out) for one in ended]


@pytest.mark.sample(5)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("clip", CLIPS)
def test_every_process_has_the_frames_of_one(count: int, clip: str):
    assert max(one[clip]["error"] for one in results(count)) < NETWORK


def test_each_of_two_sends_its_half_of_the_frames():
    for one in results(2):
        assert one["two latents at once"]["sent"] == one["two latents at once"]["frames"] / 2


@pytest.mark.parametrize("count", COUNTS)
def test_tiles_that_do_not_fit_together_are_decoded_in_turns(count: int):
    for one in results(count):
        assert (one["in tiles"]["tiles"] > 0, one["wide"]["tiles"]) == (True, 0)
