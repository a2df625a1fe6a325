"""Tensors of a checkpoint as its conversion would write them, without writing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx

from mlx_video.formats.tensor_source import TensorInfo, TensorSource, TensorView
from mlx_video.weights.rules import Move


class ConvertedTensors(TensorView):
    """A `TensorSource` in the names and layouts of a converted file, over a checkpoint's component.

    Args:
        source: the component; closed with this one.
        moves: of every tensor, from :func:`mlx_video.weights.rules.plan_moves`.
    """

    def __init__(self, source: TensorSource, moves: Sequence[Move]) -> None:
        super().__init__(source)
        self._source = source
        self._moves = {move.target: move for move in moves}
        self.infos: Mapping[str, TensorInfo] = {
            move.target: TensorInfo(move.target, move.shape, move.info.dtype) for move in moves
        }

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._source.file_of(self._moves[name].info.name)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or rows of it, in its converted layout."""
        move = self._moves[name]
        return move.transform.apply(self._source.read(move.info.name, rows))
