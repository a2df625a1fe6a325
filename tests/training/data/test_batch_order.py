"""The order of examples: every one as often as it should come, a function of seed and position alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlx_video.training.data.batch_order import fill_buckets, order_epoch

SHAPES = ["wide"] * 5 + ["high"] * 3 + ["still"]
REPEATS = [1, 1, 2, 1, 1, 3, 1, 1, 4]
SIZES = {"wide": 2, "high": 4, "still": 3}


def test_batches_are_of_one_shape_and_incomplete_ones_stay():
    buckets = fill_buckets(SHAPES, REPEATS, SIZES)
    batches = order_epoch(buckets, 0, 0)
    assert sorted(map(len, batches)) == [1, 1, 2, 2, 2, 3, 4]  # 6 by twos, 5 by fours, 4 by threes
    assert all(len({SHAPES[number] for number in batch}) == 1 for batch in batches)
    assert len(batches) == sum(bucket.num_batches for bucket in buckets)


@given(st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_shows_every_example_as_often_as_it_is_repeated(seed: int, epoch: int):
    batches = order_epoch(fill_buckets(SHAPES, REPEATS, SIZES), seed, epoch)
    assert Counter(number for batch in batches for number in batch) == Counter(
        {number: count for number, count in enumerate(REPEATS)}
    )


def test_seed_and_epoch_alone_decide_the_order():
    buckets = fill_buckets(range(50), [1] * 50, dict.fromkeys(range(50), 1))
    orders = {(seed, epoch): tuple(order_epoch(buckets, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert tuple(order_epoch(buckets, 1, 1)) == orders[1, 1]


def test_the_order_of_a_seed_is_the_same_for_ever():
    buckets = fill_buckets(["a"] * 6, [1] * 6, {"a": 2})
    assert order_epoch(buckets, 7, 3) == [(0, 2), (5, 3), (4, 1)]
