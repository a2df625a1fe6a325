"""One file of tensors whose places are known: reads the rows asked for and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

import mlx.core as mx
import numpy as np

from mlx_video.checkpoint.file_bytes import open_for_reading, read_at
from mlx_video.checkpoint.tensor_info import DTYPES, TensorInfo
from mlx_video.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a tensor lies in its file.

    Attributes:
        info: name, shape and dtype.
        position: byte of the first element, from the start of the file.
        strides: elements between neighbours along each axis, none negative.
    """

    info: TensorInfo
    position: int
    strides: tuple[int, ...]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a tensor stored row after row."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * max(shape[axis], 1)
    return tuple(strides)


def element_span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many stored elements lie from a tensor's first to its last, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))


class TensorFile:
    """A `TensorSource` over one file.

    Args:
        path: the file; stays open until `close`.
        placements: every tensor of the file, already checked to lie inside it.
    """

    def __init__(self, path: Path, placements: Sequence[Placement]) -> None:
        self.path = path
        self.label = path.name
        self.infos: Mapping[str, TensorInfo] = {place.info.name: place.info for place in placements}
        self._placements = {place.info.name: place for place in placements}
        self._file = open_for_reading(path)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.path if name in self.infos else _raise_unknown(name, self.label)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or consecutive rows of its first axis, as stored.

        The bytes pass through one buffer of their own size, so the peak is about twice what is returned.
        Float64, which MLX computes with on no GPU, comes as float32.

        Args:
            name: a key of `infos`.
            rows: which rows of axis 0, step 1; None for the whole tensor.

        Returns:
            The tensor's shape (with axis 0 cut to `rows`) and its stored dtype.

        Raises:
            CheckpointError: MLX has no such dtype (float8), or the file ends early.
            KeyError: the file has no tensor of this name.
            ValueError: `rows` has a step, or the tensor is a scalar.
        """
        place = self._placements.get(name) or _raise_unknown(name, self.label)
        stored = DTYPES[place.info.dtype]
        if stored.mlx is None and place.info.dtype != "F64":
            raise CheckpointError(
                f"{self.path}: {name} is {place.info.dtype} (8-bit float), which this version does not read. "
                "Use the bf16 or fp16 file of this model."
            )
        shape, first_row = _cut(place.info, rows)
        skipped = first_row * place.strides[0] if shape else 0
        span = element_span(shape, place.strides)
        raw = read_at(self._file, self.path, place.position + skipped * stored.size, span * stored.size)
        return _to_mlx(raw, place.info.dtype, shape, place.strides)

    def close(self) -> None:
        """Close the file; arrays read from it stay valid."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _raise_unknown(name: str, label: str) -> NoReturn:
    raise KeyError(f"{label} has no tensor {name!r}")


def _cut(info: TensorInfo, rows: slice | None) -> tuple[tuple[int, ...], int]:
    """The shape that `rows` leaves of a tensor, and the first row."""
    if rows is None:
        return info.shape, 0
    if not info.shape:
        raise ValueError(f"{info.name} is a scalar, it has no rows")
    start, stop, step = rows.indices(info.shape[0])
    if step != 1:
        raise ValueError(f"{info.name}: rows must be consecutive, not every {step}")
    return (max(stop - start, 0), *info.shape[1:]), start


def _to_mlx(raw: np.ndarray, dtype: str, shape: Sequence[int], strides: Sequence[int]) -> mx.array:
    stored = DTYPES[dtype]
    byte_strides = [stride * stored.size for stride in strides]
    words = np.lib.stride_tricks.as_strided(raw.view(stored.words), tuple(shape), byte_strides)
    if dtype == "F64":
        words = words.astype(np.float32)
    array = mx.array(words)
    # numpy has no bfloat16: its bits travel as integers.
    return array.view(mx.bfloat16) if dtype == "BF16" else array
