"""The order in which an epoch shows its batches: a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Examples of one shape, of one table.

    Attributes:
        items: numbers of examples; one that is repeated stands there as often.
        batch_size: of a batch; the last one of a bucket has what is left.
    """

    items: tuple[int, ...]
    batch_size: int

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.items) // self.batch_size)


def fill_buckets(
    shapes: Sequence[Hashable], repeats: Sequence[int], batch_sizes: Mapping[Hashable, int]
) -> tuple[Bucket, ...]:
    """Sort examples into buckets.

    Args:
        shapes: what examples of one batch have in common, for each example.
        repeats: how often an epoch shows each.
        batch_sizes: shape → examples of a batch.
    """
    found: dict[Hashable, list[int]] = {}
    for number, (shape, count) in enumerate(zip(shapes, repeats, strict=True)):
        found.setdefault(shape, []).extend([number] * count)
    return tuple(Bucket(tuple(items), batch_sizes[shape]) for shape, items in found.items())


def order_epoch(buckets: Sequence[Bucket], seed: int, epoch: int) -> list[tuple[int, ...]]:
    """Batches of an epoch: each bucket is shuffled and cut, then all batches are.

    Incomplete batches stay, as in musubi-tuner. Only Python's `random()` is drawn from, whose numbers stay
    the same from version to version.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/bucket.py, BucketBatchManager.
    """
    random = Random(f"{seed} {epoch}")
    batches: list[tuple[int, ...]] = []
    for bucket in buckets:
        items = _shuffled(bucket.items, random)
        size = bucket.batch_size
        batches += [tuple(items[begin : begin + size]) for begin in range(0, len(items), size)]
    return _shuffled(batches, random)


def _shuffled(items: Sequence[Item], random: Random) -> list[Item]:
    keys = [random.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]
