"""The parameters that training changes, by name, wherever in a network they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.block_order import find_prefix

Values = dict[str, mx.array]
"""Name of a parameter → its value, its gradient, or what else there is of it."""


class Trainable:
    """Parameters and their places.

    Args:
        places: name → the module and the name in it.
    """

    def __init__(self, places: Mapping[str, tuple[nn.Module, str]]) -> None:
        self._places = dict(places)
        self._by_block: dict[str, list[str]] = {}
        for name in self._places:
            self._by_block.setdefault(find_prefix(name), []).append(name)

    @property
    def names(self) -> Collection[str]:
        """Of all parameters."""
        return self._places.keys()

    def of_block(self, prefix: str) -> Values:
        """Values of a block's parameters, such as "blocks.3."; "" for those of no block."""
        return {name: self.value(name) for name in self._by_block.get(prefix, ())}

    def value(self, name: str) -> mx.array:
        """Value of one parameter."""
        module, leaf = self._places[name]
        return module[leaf]

    def values(self) -> Values:
        """Values of all parameters."""
        return {name: self.value(name) for name in self._places}

    def put(self, values: Mapping[str, mx.array]) -> None:
        """Give some parameters values."""
        for name, value in values.items():
            module, leaf = self._places[name]
            module[leaf] = value

    @contextmanager
    def holding(self, values: Mapping[str, mx.array]) -> Iterator[None]:
        """Give some parameters values for the length of a `with` block."""
        before = {name: self.value(name) for name in values}
        self.put(values)
        try:
            yield
        finally:
            self.put(before)
