"""Forwards that several processes make together are those that one makes, of every kind of model and mode."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

from mlx_video.config import TransformerConfig
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.context_parallel import ContextParallel
from mlx_video.models.block_context import CrossAttentionCache, Pass, PromptTokens
from mlx_video.weights.block_shares import share_blocks
from tests.distributed.forward_cases import CASES, LONGCAT, TEXT_TO_VIDEO, WITHOUT_HEADS
from tests.distributed.ranks import run_ranks

LARGEST_ERROR = 1e-5
"""Relative: the same products in float32, of other numbers of rows, or added up in another order."""
ROUNDED = 3e-4
"""Of the bytes: parts of arrays are whole numbers, and tensors of a shared block begin at even places."""
STREAMED = ", streamed"
USUAL: Mapping[int, tuple[str, ...]] = {
    2: (
        "text",
        "image",
        "a timestep for each token",
        "reference",
        "reference video",
        "clean frames",
        "normalized attention",
        "a hook of all tokens",
        "first-block cache",
        "4 bits, vace",
    ),
    3: ("text", "8 bits"),
    4: ("text",),
}
"""Number of processes → the cases of every run; the others are left to a nightly one."""


def counts_and_cases(further: Iterable[str] = (), without: Collection[str] = ()) -> list[Any]:
    """Numbers of processes and names of cases."""
    return [
        pytest.param(count, name, marks=() if is_usual(count, name) else pytest.mark.nightly)
        for count in USUAL
        for name in (*CASES, *further)
        if name not in without
    ]


def is_usual(count: int, case: str) -> bool:
    return case.removesuffix(STREAMED) in USUAL[count]


@cache
def results(count: int, usual: bool) -> list[dict[str, Any]]:
    """What so many processes found, by rank."""
    names = [name for name in CASES if name == "text" or is_usual(count, name) == usual]
    ended = run_ranks(count, ["-m", "tests.distributed.forward_ranks", *names], seconds=180)
    for one in ended:
        assert one.code == 0, one.err
    return [json.loads(one.out) for one in ended]


def largest_error(count: int, mode: str, case: str) -> float:
    return max(one[mode][case] for one in results(count, usual=is_usual(count, case)))


@pytest.mark.sample(2)
@pytest.mark.parametrize(("count", "case"), counts_and_cases(["vace" + STREAMED, "4 bits, vace" + STREAMED]))
def test_shared_tokens_give_the_velocity_of_one_process(count: int, case: str):
    assert largest_error(count, "context", case) < LARGEST_ERROR


@pytest.mark.parametrize(("count", "case"), counts_and_cases(without=WITHOUT_HEADS))
def test_shared_heads_give_the_velocity_of_one_process(count: int, case: str):
    assert largest_error(count, "tensor", case) < LARGEST_ERROR


@pytest.mark.parametrize("count", USUAL)
def test_shared_heads_with_adapters_give_the_velocity_of_one_process(count: int):
    assert max(one["tensor"]["adapters"] for one in results(count, usual=True)) < LARGEST_ERROR


@pytest.mark.parametrize(("count", "case"), counts_and_cases())
def test_shared_weights_give_the_velocity_of_one_process(count: int, case: str):
    assert largest_error(count, "sharded", case) < LARGEST_ERROR


@pytest.mark.parametrize(("count", "case"), counts_and_cases())
def test_shared_weights_without_shared_tokens_give_the_bits_of_one_process(count: int, case: str):
    found = results(count, usual=is_usual(count, case))
    assert max(one["sharded"][f"{case}, all tokens"] for one in found) == 0.0


@pytest.mark.parametrize("count", USUAL)
def test_without_the_tokens_of_the_others_the_velocity_is_another(count: int):
    assert min(one["context"]["not gathered"] for one in results(count, usual=True)) > 1e-3


@pytest.mark.parametrize("count", USUAL)
@pytest.mark.parametrize("mode", ["context", "tensor", "sharded"])
def test_bytes_sent_are_those_of_the_formula(count: int, mode: str):
    for one in results(count, usual=True):
        assert one["bytes"][mode]["sent"] == pytest.approx(one["bytes"][mode]["expected"], rel=ROUNDED)


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (LONGCAT, 2, "are one layer cannot be shared out by heads"),
        (TEXT_TO_VIDEO, 5, "4 heads and 5 groups of channels cannot be shared out over 5 processes"),
    ],
    ids=["one layer", "fewer heads"],
)
def test_heads_that_cannot_be_shared_out_are_a_wrong_call(config: TransformerConfig, size: int, words: str):
    with pytest.raises(ValueError, match=words):
        share_blocks(config, 0, size)


def test_a_pass_that_needs_all_queries_is_made_by_every_process():
    one = Pass(PromptTokens(CrossAttentionCache(mx.zeros((1, 4)))), shares_tokens=False)
    context = ContextParallel(Collectives(mx.distributed.init()))
    assert context.share(one) is one
    assert context.share(replace(one, shares_tokens=True)).sharing is context
