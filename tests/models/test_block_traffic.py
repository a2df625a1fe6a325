"""Bytes that a block moves besides its products and attentions on a GPU, counted from its graph."""

from __future__ import annotations

import mlx.core as mx
import pytest

from benchmarks.block_traffic import count_block
from mlx_video.config import TransformerConfig

GRID, DIM = (2, 4, 8), 768
ELEMENTS = 64 * DIM
CONFIG = TransformerConfig(DIM, 2 * DIM, 12, 1)


@pytest.fixture(scope="module")
def moved() -> dict[str, float]:
    return {name: nbytes / ELEMENTS for name, nbytes in count_block(CONFIG, GRID, mx.bfloat16).items()}


def test_turned_queries_and_keys_are_joined_in_the_type_of_products(moved):
    assert moved["join"] == 2 * (2 + 2)
    # The queries or keys in, two halves out; and one angle for all twelve heads.
    assert moved["rotation"] == pytest.approx(2 * (2 + 2 + 4 / 12))


def test_kernels_of_our_own_read_and_write_once():
    kernels = frozenset({"layer_norm", "rotary_norm"})
    moved = {
        name: nbytes / ELEMENTS for name, nbytes in count_block(CONFIG, GRID, mx.bfloat16, kernels).items()
    }
    assert moved["layer norm"] == 3 * (4 + 2)
    # And a cosine and a sine for all twelve heads.
    assert moved["rotary norm"] == pytest.approx(2 * (2 + 2 + 4 / 12))
    assert not {"join", "rotation", "cast"} & moved.keys()


def test_norms_are_rounded_once_for_all_layers_that_read_them(moved):
    # Before self-attention, cross-attention and the feed-forward: float32 in, bfloat16 out.
    assert moved["cast"] == 3 * (4 + 2)
