"""Safetensors files: the header first, then one tensor at a time, in both directions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Self

import mlx.core as mx
import numpy as np

from mlx_video.files.file_bytes import flush, open_for_writing, write_at
from mlx_video.formats.safetensors_header import METADATA_KEY, Header, encode_header, read_header
from mlx_video.formats.tensor_file import Placement, TensorFile, contiguous_strides
from mlx_video.formats.tensor_info import DTYPES, TensorInfo

__all__ = ["Header", "SafetensorsFile", "SafetensorsWriter", "order", "read_header"]


class SafetensorsFile(TensorFile):
    """A `TensorSource` over one safetensors file.

    Args:
        path: the file.

    Raises:
        CheckpointError: as `read_header`.
    """

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        self.metadata = header.metadata
        super().__init__(
            path,
            [
                Placement(info, header.data_start + header.offsets[name][0], contiguous_strides(info.shape))
                for name, info in header.infos.items()
            ],
        )


def order(plan: Iterable[TensorInfo]) -> list[TensorInfo]:
    """The order of the data in a file we write: wide elements first, then by name.

    Every tensor thus begins on a multiple of its element size.
    """
    return sorted(plan, key=lambda info: (-DTYPES[info.dtype].size, info.name))


class SafetensorsWriter:
    """Writes a safetensors file whose tensors are known by name, shape and dtype beforehand.

    The header goes first; tensors may then come in any order, each whole or as consecutive row slices. The
    file gets its name when it is complete; before that, and after an exception, only a hidden `.partial` file
    stands in its place, which `close` renames and an exception removes.

    Args:
        path: the file to make; an older one of this name is replaced at the end.
        plan: every tensor of the file.
        metadata: texts for the header.

    Raises:
        ValueError: two tensors of one name, or a dtype that MLX cannot hold.
        CheckpointError: the file cannot be made.
    """

    def __init__(
        self, path: Path, plan: Sequence[TensorInfo], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        ordered = order(plan)
        self._infos = {info.name: info for info in ordered}
        _check_plan(ordered, self._infos)
        begins = list(accumulate((info.nbytes for info in ordered), initial=0))
        header = encode_header(ordered, begins, metadata)
        self._positions = {
            info.name: len(header) + begin for info, begin in zip(ordered, begins, strict=False)
        }
        self._written = dict.fromkeys(self._infos, 0)
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = open_for_writing(self._partial)
        try:
            self._put(0, memoryview(header))
        except BaseException:
            self.discard()
            raise

    def write(self, name: str, array: mx.array) -> None:
        """Write a tensor, or its next rows.

        Args:
            name: a tensor of the plan.
            array: the whole tensor, or rows that follow the last ones written, in the planned dtype.

        Raises:
            ValueError: the name, dtype or shape does not match the plan, or there are too many rows.
            CheckpointError: the disk is full or fails; the unfinished file is left for the context manager.
        """
        info = self._infos.get(name)
        if info is None:
            raise ValueError(f"{self.path.name}: {name} is not in the plan")
        _check_part(info, array, self._written[name])
        data = _to_bytes(array)
        self._put(self._positions[name] + self._written[name], data)
        self._written[name] += data.nbytes

    def close(self) -> None:
        """Check that every tensor is complete, flush to the disk, and give the file its name.

        Raises:
            ValueError: a tensor is missing or has too few rows; nothing stays behind.
            CheckpointError: the disk is full or fails; nothing stays behind.
        """
        if self._file.closed:
            return
        for name, info in self._infos.items():
            if self._written[name] != info.nbytes:
                self.discard()
                raise ValueError(
                    f"{self.path.name}: {name} {list(info.shape)} is incomplete, "
                    f"{self._written[name]:,} of {info.nbytes:,} bytes were written"
                )
        try:
            flush(self._file, self.path)
        except BaseException:
            self.discard()
            raise
        self._file.close()
        os.replace(self._partial, self.path)

    def discard(self) -> None:
        """Drop what was written so far."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _put(self, position: int, data: memoryview) -> None:
        write_at(self._file, self.path, position, data)


def _check_plan(ordered: Sequence[TensorInfo], infos: Mapping[str, TensorInfo]) -> None:
    if METADATA_KEY in infos:
        raise ValueError(f"{METADATA_KEY} is reserved, no tensor can have this name")
    if len(infos) < len(ordered):
        names = [info.name for info in ordered]
        raise ValueError(f"tensor names must differ: {sorted({n for n in names if names.count(n) > 1})}")
    for info in ordered:
        if DTYPES[info.dtype].mlx is None:
            raise ValueError(f"{info.name}: MLX has no dtype {info.dtype} to write")


def _check_part(info: TensorInfo, array: mx.array, written: int) -> None:
    if array.dtype != DTYPES[info.dtype].mlx:
        raise ValueError(f"{info.name}: planned as {info.dtype}, got {array.dtype}")
    is_part = array.ndim == len(info.shape) and array.shape[1:] == info.shape[1:]
    if not is_part or written + array.nbytes > info.nbytes:
        row_bytes = math.prod(info.shape[1:]) * DTYPES[info.dtype].size
        rows = written // row_bytes if row_bytes else 0
        raise ValueError(
            f"{info.name}: planned as {list(info.shape)}, got {list(array.shape)} after {rows} rows"
        )


def _to_bytes(array: mx.array) -> memoryview:
    """The array's bytes, row after row, without a copy where it already lies so."""
    if array.dtype == mx.bfloat16:
        # numpy has no bfloat16: its bits travel as integers.
        array = array.view(mx.uint16)
    words = np.array(array, copy=False)
    return words.reshape(-1).view(np.uint8).data
