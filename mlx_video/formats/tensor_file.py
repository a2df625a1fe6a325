"""One file of tensors whose places are known: reads the rows asked for and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

import mlx.core as mx
import numpy as np

from mlx_video.files.file_bytes import open_for_reading, read_at, read_into
from mlx_video.formats.float8 import FLOAT8_DTYPES, decode_float8
from mlx_video.formats.tensor_info import DTYPES, TensorInfo


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
        return self.path if name in self.infos else raise_unknown(name, self.label)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or consecutive rows of its first axis, as stored.

        The bytes pass through one buffer of their own size, so the peak is about twice what is returned.
        Float64, which MLX computes with on no GPU, comes as float32, and so do 8-bit floats, which it lacks.

        Args:
            name: a key of `infos`.
            rows: which rows of axis 0, step 1; None for the whole tensor.

        Returns:
            The tensor's shape (with axis 0 cut to `rows`) and its stored dtype.

        Raises:
            CheckpointError: the file ends early.
            KeyError: the file has no tensor of this name.
            ValueError: `rows` has a step, or the tensor is a scalar.
        """
        place = self._placements.get(name) or raise_unknown(name, self.label)
        stored = DTYPES[place.info.dtype]
        shape, first_row = cut_rows(place.info, rows)
        skipped = first_row * place.strides[0] if shape else 0
        span = element_span(shape, place.strides)
        raw = read_at(self._file, self.path, place.position + skipped * stored.size, span * stored.size)
        return _to_mlx(raw, place.info.dtype, shape, place.strides)

    def read_into(self, name: str, memory: memoryview) -> None:
        """Read a whole tensor into memory that has its type and shape; no other memory is used.

        Args:
            name: a key of `infos`, of a tensor stored row after row.
            memory: flat bytes, writable.

        Raises:
            CheckpointError: the file ends early, or the device reports an error.
            KeyError: the file has no tensor of this name.
            ValueError: the tensor has another number of bytes, or is not stored row after row.
        """
        place = self._placements.get(name) or raise_unknown(name, self.label)
        if place.strides != contiguous_strides(place.info.shape):
            raise ValueError(f"{self.label}: {name} is not stored row after row")
        if place.info.nbytes != memory.nbytes:
            raise ValueError(f"{self.label}: {name} has {place.info.nbytes:,} bytes, not {memory.nbytes:,}")
        read_into(self._file, self.path, place.position, memory)

    def close(self) -> None:
        """Close the file; arrays read from it stay valid."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def raise_unknown(name: str, label: str) -> NoReturn:
    """Raise the KeyError of a name that a source does not have."""
    raise KeyError(f"{label} has no tensor {name!r}")


def cut_rows(info: TensorInfo, rows: slice | None) -> tuple[tuple[int, ...], int]:
    """The shape that `rows` leaves of a tensor, and the first row.

    Raises:
        ValueError: `rows` has a step, or the tensor is a scalar.
    """
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
    elif dtype in FLOAT8_DTYPES:
        words = decode_float8(words, dtype)
    array = mx.array(words)
    # numpy has no bfloat16: its bits travel as integers.
    return array.view(mx.bfloat16) if dtype == "BF16" else array
