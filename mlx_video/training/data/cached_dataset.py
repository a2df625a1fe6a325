"""An encoded dataset: examples read from the cache, batch by batch, in an order without an end."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_video.conditioning.disk_cache import PromptCache
from mlx_video.conditioning.units import build_conditioning
from mlx_video.errors import MediaError
from mlx_video.training.data.batch_order import Bucket, fill_buckets, order_epoch
from mlx_video.training.data.clips import Table
from mlx_video.training.data.content_digest import digest_value
from mlx_video.training.data.example_file import Shapes, read_example
from mlx_video.training.example import Example


@dataclass(frozen=True, slots=True)
class CachedExample:
    """An example that waits in the cache.

    Attributes:
        name: for messages.
        table: that it comes from.
        path: of its latents and conditioning.
        shapes: of the arrays there.
        caption: as token numbers.
        texts: where the caption's features lie.
        seed: of the run that made the clip, where a student learns from it.
    """

    name: str
    table: Table
    path: Path
    shapes: Shapes
    caption: tuple[int, ...]
    texts: PromptCache
    seed: int | None = None

    def load(self) -> Example:
        """Read it.

        Raises:
            MediaError: a file has been damaged or removed since it was checked.
        """
        latents, fields = read_example(self.path)
        context = load_caption(self.texts, self.caption)
        return Example(self.name, latents, build_conditioning({**fields, "context": context}), self.seed)


def load_caption(texts: PromptCache, numbers: Sequence[int]) -> mx.array:
    """Features of a caption, [n, text_dim].

    Raises:
        MediaError: its file has been damaged or removed since it was checked.
    """
    found = texts.load(numbers)
    if found is None:
        raise MediaError(f"{texts.path_of(numbers)}: damaged or removed. The same command makes it anew.")
    return found


class CachedDataset:
    """All examples of a training; see `training.example.Examples`.

    Only the batch that is asked for is in memory, and the order of one epoch.

    Args:
        examples: in the order of the dataset.
        empty_context: features of the empty prompt, [n, text_dim].
        seed: of the order.

    Attributes:
        examples, empty_context, seed: as given.
        batches_per_epoch: how many batches show every example as often as its table says.
        examples_per_epoch: how many examples these have, repeats included.
    """

    def __init__(self, examples: Sequence[CachedExample], empty_context: mx.array, seed: int) -> None:
        self.examples = tuple(examples)
        self.empty_context = empty_context
        self.seed = seed
        self.buckets = _sort(self.examples)
        self.batches_per_epoch = sum(bucket.num_batches for bucket in self.buckets)
        self.examples_per_epoch = sum(len(bucket.items) for bucket in self.buckets)
        self._epoch: tuple[int, list[tuple[int, ...]]] = -1, []

    def batch(self, position: int) -> tuple[Example, ...]:
        """The batch of a number since the beginning: a function of the seed and the position.

        Raises:
            MediaError: a file of the cache has been damaged or removed.
        """
        return tuple(self.examples[number].load() for number in self.numbers(position))

    def numbers(self, position: int) -> tuple[int, ...]:
        """Numbers of the examples of a batch."""
        epoch, index = divmod(position, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, order_epoch(self.buckets, self.seed, epoch)
        return self._epoch[1][index]

    @property
    def identity(self) -> str:
        """Equal for a dataset that shows the same examples in the same order; for the state of a training."""
        facts = [
            [example.path.name, example.caption, example.table.batch_size, example.table.num_repeats]
            + ([] if example.seed is None else [example.seed])
            for example in self.examples
        ]
        return digest_value([self.seed, facts])

    def describe(self) -> str:
        """A line for people, and for a result's metadata."""
        return (
            f"{len(self.examples)} examples, {self.examples_per_epoch} shown in {self.batches_per_epoch} "
            f"batches an epoch, {len(self.buckets)} buckets"
        )


def _sort(examples: Sequence[CachedExample]) -> tuple[Bucket, ...]:
    """Buckets of tables and shapes; captions may have any length."""
    tables = {id(example.table): number for number, example in enumerate(examples)}
    shapes: list[Hashable] = [(tables[id(example.table)], example.shapes) for example in examples]
    sizes = {shape: example.table.batch_size for shape, example in zip(shapes, examples, strict=True)}
    return fill_buckets(shapes, [example.table.num_repeats for example in examples], sizes)
