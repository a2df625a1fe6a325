"""Arrays set aside on disk until their turn comes."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import mlx.core as mx
import numpy as np

from mlx_video.errors import MediaError


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an array lies in a :class:`ScratchFile`."""

    offset: int
    shape: tuple[int, ...]


class ScratchFile(AbstractContextManager["ScratchFile"]):
    """A nameless file for float32 arrays; the system removes it, however the process ends.

    Args:
        folder: where the space is taken; None for the system's folder of temporary files.

    Raises:
        MediaError: no file can be made there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = Path(folder or tempfile.gettempdir())
        self._end = 0
        try:
            # Unbuffered: what a full disk refuses would be tried again when the file is closed.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 (see __exit__)
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, array: mx.array) -> Stored:
        """Write an array behind all others.

        Args:
            array: any shape, float32; computed here.

        Raises:
            MediaError: the disk takes no more.
        """
        stored, left = Stored(self._end, array.shape), _bytes_of(np.ascontiguousarray(array))
        self._file.seek(self._end)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failure(error) from error
        self._end += array.nbytes
        return stored

    def get(self, stored: Stored) -> mx.array:
        """Read an array back: what :meth:`put` was given, float32."""
        values = np.empty(stored.shape, np.float32)
        left = _bytes_of(values)
        self._file.seek(stored.offset)
        while left:
            left = left[self._file.readinto(left) :]
        return mx.array(values)

    def _failure(self, error: OSError) -> MediaError:
        return MediaError(
            f"{self._folder}: the temporary file there takes no more than {self._end / 1e9:.1f} GB "
            f"({error.strerror or error}). Free space, or set TMPDIR to a folder on another disk."
        )


def _bytes_of(values: np.ndarray) -> memoryview:
    return values.data.cast("B")
