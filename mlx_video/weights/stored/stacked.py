"""Tensors put together from those of another source: rows stacked, axes of length one added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource, TensorView


@dataclass(frozen=True, slots=True)
class Stack:
    """How one tensor comes about.

    Attributes:
        parts: tensors of the other source, whose rows follow one another.
        new_axes: how many axes of length one stand before the rows; then there is one part.
        axes_behind: how many axes of length one follow; then there is one part likewise.
    """

    parts: tuple[str, ...]
    new_axes: int = 0
    axes_behind: int = 0


class StackedTensors(TensorView):
    """A `TensorSource` some of whose tensors are made of several of another source.

    Args:
        source: closed with this one.
        stacks: name here → how it comes about. The parts themselves have no names here.

    Raises:
        CheckpointError: the parts of a tensor differ in dtype, or in more than their rows.
    """

    def __init__(self, source: TensorSource, stacks: Mapping[str, Stack]) -> None:
        super().__init__(source)
        self._source = source
        self._stacks = stacks
        by_first = {stack.parts[0]: name for name, stack in stacks.items()}
        hidden = {part for stack in stacks.values() for part in stack.parts} - by_first.keys()
        self.infos: Mapping[str, TensorInfo] = {
            by_first.get(name, name): self._describe(by_first[name]) if name in by_first else info
            for name, info in source.infos.items()
            if name not in hidden
        }

    def _describe(self, name: str) -> TensorInfo:
        stack = self._stacks[name]
        first, *others = (self._source.infos[part] for part in stack.parts)
        for other in others:
            if (other.dtype, other.shape[1:]) != (first.dtype, first.shape[1:]):
                raise CheckpointError(
                    f"{self.label}: {first.title} is {first.dtype} {list(first.shape)}, {other.title} is "
                    f"{other.dtype} {list(other.shape)}; both are parts of one tensor. Fetch the file again."
                )
        rows = sum(self._source.infos[part].shape[0] for part in stack.parts)
        stored_as = ", ".join(self._source.infos[part].stored_as or part for part in stack.parts)
        shape = (*(1,) * stack.new_axes, rows, *first.shape[1:], *(1,) * stack.axes_behind)
        return TensorInfo(name, shape, first.dtype, stored_as)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor, or its first part."""
        return self._source.file_of(self._stacks[name].parts[0] if name in self._stacks else name)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or rows of it."""
        stack = self._stacks.get(name)
        if stack is None:
            return self._source.read(name, rows)
        if stack.new_axes or stack.axes_behind:
            whole = self._source.read(stack.parts[0]).reshape(self.infos[name].shape)
            return whole if rows is None else whole[rows]
        return mx.concatenate(list(self._read_parts(name, stack, rows)))

    def _read_parts(self, name: str, stack: Stack, rows: slice | None) -> Iterator[mx.array]:
        begin, end, step = (rows or slice(None)).indices(self.infos[name].shape[0])
        if step != 1:
            raise ValueError(f"{name}: rows must be consecutive, not every {step}")
        start = 0
        for part in stack.parts:
            count = self._source.infos[part].shape[0]
            low, high = max(begin - start, 0), min(end - start, count)
            if low < high:
                yield self._source.read(part, slice(low, high))
            start += count
