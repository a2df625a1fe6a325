"""A file's tensors under the names of the network they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import mlx.core as mx

from mlx_video.checkpoint.tensor_source import TensorInfo, TensorSource
from mlx_video.errors import CheckpointError
from mlx_video.weights.rules import Rule, apply_rules


class RenamedTensors:
    """A `TensorSource` whose tensors another source holds under other names.

    Args:
        source: closed with this one.
        rules: name there → name here; their transforms do not count. A target of None hides a tensor.

    Raises:
        CheckpointError: two tensors would get the same name.
    """

    def __init__(self, source: TensorSource, rules: Sequence[Rule]) -> None:
        self._source = source
        self.label = source.label
        self._names: dict[str, str] = {}
        for name in source.infos:
            target, _ = apply_rules(name, rules)
            if target is None:
                continue
            if (other := self._names.setdefault(target, name)) != name:
                source.close()
                raise CheckpointError(
                    f"{source.label}: {other} and {name} are two spellings of the same tensor. "
                    "Convert the model again."
                )
        self.infos: Mapping[str, TensorInfo] = {new: source.infos[old] for new, old in self._names.items()}

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._source.file_of(self._names[name])

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or rows of it, under its name here."""
        return self._source.read(self._names[name], rows)

    def close(self) -> None:
        """Close the other source."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
