"""A file's tensors under the names of the network they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource, TensorView
from mlx_video.weights.rules import Rule, apply_rules, strip_prefix


class RenamedTensors(TensorView):
    """A `TensorSource` whose tensors another source holds under other names.

    Args:
        source: closed with this one.
        rules: name there → name here; their transforms do not count. A target of None hides a tensor.
        prefix: stands before the names there; the rules see them without it.

    Raises:
        CheckpointError: two tensors would get the same name.
    """

    def __init__(self, source: TensorSource, rules: Sequence[Rule], *, prefix: str = "") -> None:
        super().__init__(source)
        self._source = source
        self._names: dict[str, str] = {}
        for short, info in strip_prefix(source.infos, prefix).items():
            target, _ = apply_rules(short, rules)
            if target is None:
                continue
            if (other := self._names.setdefault(target, info.name)) != info.name:
                raise CheckpointError(
                    f"{source.label}: {other} and {info.name} are two spellings of the same tensor. "
                    "The file holds two models, or is damaged; use one that holds the Wan model alone."
                )
        self.infos: Mapping[str, TensorInfo] = {
            new: _rename(source.infos[old], new) for new, old in self._names.items()
        }

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._source.file_of(self._names[name])

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or rows of it, under its name here."""
        return self._source.read(self._names[name], rows)


def _rename(info: TensorInfo, name: str) -> TensorInfo:
    return replace(info, name=name, stored_as=info.stored_as or info.name)
