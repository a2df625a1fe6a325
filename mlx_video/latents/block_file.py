"""Finished latents of a video that is made block by block, in a file that grows with it."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import mlx.core as mx
import numpy as np

from mlx_video.errors import MediaError

FORMAT = 1
HEADER_BYTES = 256
_CHECKSUM_BYTES = 4

Shape = tuple[int, int, int, int]


class BlockFile(AbstractContextManager["BlockFile"]):
    """Latents of the blocks in order, each with a checksum behind it.

    A file that is named stays when this object is closed; it is made with its first block.
    One without a name is removed by the system, however the process ends.

    Args:
        path: of the file; None for one without a name, among the temporary ones.
        shape: [C, T, H, W] of a block, float32.
        owner: what tells the video from others.
    """

    def __init__(self, path: Path | None, shape: Shape, owner: str) -> None:
        self._path = path
        self._shape = shape
        header = json.dumps({"format": FORMAT, "shape": shape, "owner": owner})
        self._header = header.encode().ljust(HEADER_BYTES - 1) + b"\n"
        self._record_bytes = 4 * int(np.prod(shape)) + _CHECKSUM_BYTES
        self._file: BinaryIO | None = None
        self.count = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def go_on(self, count: int) -> Self:
        """Take over the first `count` blocks of an earlier run.

        Raises:
            MediaError: they are not there, damaged, or of another video.
        """
        if not count:
            return self
        try:
            assert self._path is not None  # what has no name is not gone on with
            self._file = self._path.open("r+b", buffering=0)
            if self._file.read(HEADER_BYTES) != self._header:
                raise ValueError("it is of another video")
            self.count = count
            for index in range(count):
                self._read(index)
        except (OSError, ValueError) as error:
            self._close()
            self.count = 0
            raise MediaError(
                f"{self._path}: the {count} finished blocks that the run goes on from cannot be read "
                f"({error}). Begin anew without --resume."
            ) from error
        return self

    def append(self, latents: mx.array) -> None:
        """Write the next block, which is on the disk when this returns.

        Raises:
            MediaError: the disk takes no more.
            ValueError: it has another shape.
        """
        if latents.shape != self._shape:
            raise ValueError(f"a block of {latents.shape} among such of {self._shape}")
        data = np.ascontiguousarray(latents, np.float32).tobytes()
        try:
            self._write(self._offset(self.count), data + _checksum(data))
        except OSError as error:
            raise MediaError(
                f"{self._path or tempfile.gettempdir()}: finished latents cannot be kept there "
                f"({error.strerror or error}). Free some space, or choose a folder on another disk."
            ) from error
        self.count += 1

    def read(self, index: int) -> mx.array:
        """Block `index` again, [C, T, H, W], float32.

        Raises:
            MediaError: the file was changed.
        """
        try:
            return mx.array(self._read(index))
        except (OSError, ValueError) as error:
            raise MediaError(f"{self._path}: changed while it was in use ({error}). Begin anew.") from error

    def read_all(self) -> mx.array:
        """All blocks joined in time, [C, T, H, W]."""
        channels, frames, *sides = self._shape
        whole = np.empty((channels, frames * self.count, *sides), np.float32)
        for index in range(self.count):
            whole[:, frames * index : frames * (index + 1)] = self._read(index)
        return mx.array(whole)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _offset(self, index: int) -> int:
        return HEADER_BYTES + index * self._record_bytes

    def _opened(self) -> BinaryIO:
        if self._file is None:
            if self._path is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (see __exit__)
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w+b", buffering=0)
            self._write(0, self._header)
        return self._file

    def _write(self, offset: int, data: bytes) -> None:
        file, left = self._opened(), memoryview(data)
        file.seek(offset)
        while left:
            left = left[file.write(left) :]

    def _read(self, index: int) -> np.ndarray:
        file = self._opened()
        file.seek(self._offset(index))
        record = b"".join(_read_exactly(file, self._record_bytes))
        data, checksum = record[:-_CHECKSUM_BYTES], record[-_CHECKSUM_BYTES:]
        if len(record) < self._record_bytes or _checksum(data) != checksum:
            raise ValueError(f"block {index + 1} is cut short or damaged")
        return np.frombuffer(data, np.float32).reshape(self._shape)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def _read_exactly(file: BinaryIO, count: int) -> Iterator[bytes]:
    """So many bytes, or those that there are."""
    while count and (part := file.read(count)):
        count -= len(part)
        yield part


def block_path(video: Path) -> Path:
    """Where the finished blocks of an unfinished video are kept."""
    return video.with_name(f"{video.name}.blocks")


def is_block_file(path: Path) -> bool:
    """Whether a :class:`BlockFile` wrote a file, of any version."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.keys() == {"format", "shape", "owner"}
