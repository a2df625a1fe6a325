"""The one way frames leave: a writer that takes them as they are decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import numpy as np

from mlx_video.errors import MediaError


class FrameWriter(ABC):
    """Takes the frames of one video in order.

    As a context manager it closes at the end of a block that succeeded; any exception, Ctrl-C too, discards
    the unfinished result. An earlier result of the same name stays until `close` replaces it.

    Args:
        width: pixels of a row.
        height: rows of a frame.
        dtype: of the frames' numbers.
    """

    def __init__(self, width: int, height: int, dtype: type[np.generic] = np.uint8) -> None:
        self.dtype = np.dtype(dtype)
        self.width = width
        self.height = height
        self.frames_written = 0
        self._is_open = True

    def write(self, frames: np.ndarray) -> None:
        """Add frames.

        Args:
            frames: [F, H, W, 3], RGB of the writer's dtype; F may be 0 or more.

        Raises:
            MediaError: the file takes no more data; what there was of it is discarded.
            ValueError: other dtype or size, or the writer is closed.
        """
        if not self._is_open:
            raise ValueError("write() after close(): open a new writer for another video.")
        expected = (self.height, self.width, 3)
        if frames.dtype != self.dtype or frames.ndim != 4 or frames.shape[1:] != expected:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}, expected {self.dtype} [F, {expected}]."
            )
        try:
            self._append(np.ascontiguousarray(frames))
        except BaseException:
            self.discard()
            raise
        self.frames_written += len(frames)

    def close(self) -> None:
        """Finish the file and give it its final name; a second call does nothing.

        Raises:
            MediaError: no frame was written, or the file cannot be finished. Nothing is left behind.
        """
        if not self._is_open:
            return
        try:
            if not self.frames_written:
                raise MediaError("no frames arrived, so there is no video to write. Check the frame count.")
            self._finish()
        except BaseException:
            self.discard()
            raise
        self._is_open = False

    def discard(self) -> None:
        """Give up: remove the unfinished result; does nothing after `close`."""
        if self._is_open:
            self._is_open = False
            self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @abstractmethod
    def _append(self, frames: np.ndarray) -> None:
        """Take checked, contiguous frames."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file and publish it."""

    @abstractmethod
    def _abandon(self) -> None:
        """Remove whatever is unfinished; never raises for a file that is already gone."""
