"""Hooks see all tokens, of which each process keeps its own."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_video.models import shared_forward
from mlx_video.models.block_context import BlockHook


class Joining(BlockHook):
    """A hook that takes the place of a block."""

    def join_block(self, block, index):
        return lambda x, context, *others: x + index + sum(others)


@pytest.fixture
def context(monkeypatch) -> SimpleNamespace:
    """Tokens 2 and 3 of four."""
    monkeypatch.setattr(shared_forward, "_join", lambda tokens, context: mx.arange(4.0)[:, None])
    return SimpleNamespace(rows=slice(2, 4), of_all_tokens=lambda: "all")


def test_a_hook_that_joins_nothing_leaves_the_block():
    def block(x, context):
        raise AssertionError

    assert shared_forward._HookOfAllTokens(BlockHook()).join_block(block, 0) is block


def test_what_takes_the_place_of_a_block_sees_all_tokens(context):
    joined = shared_forward._HookOfAllTokens(Joining()).join_block(lambda x, context: x, 10)
    assert joined(mx.zeros((2, 1)), context, 100).tolist() == [[112.0], [113.0]]
