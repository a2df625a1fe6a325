"""Frames without loss in one safetensors file, written as they arrive and read one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mlx_video.errors import CheckpointError, MediaError
from mlx_video.files.whole_file import held, publish, temporary_sibling
from mlx_video.formats.safetensors_header import CutShortError, Header, encode_header, read_header
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.media.frame_writer import FrameWriter

FRAMES_NAME = "frames"


class FramesFileWriter(FrameWriter):
    """Writes uint8 frames [F, H, W, 3] as they are, so that none stays in memory.

    Args:
        path: final name.
        count: frames that will arrive.
        width: pixels.
        height: pixels.
        texts: the file's metadata.

    Raises:
        MediaError: the file cannot be made.
    """

    def __init__(self, path: Path, count: int, width: int, height: int, texts: Mapping[str, str]) -> None:
        super().__init__(width, height)
        self._path, self._count = path, count
        self._temporary = temporary_sibling(path)
        self._files = ExitStack()
        info = TensorInfo(FRAMES_NAME, (count, height, width, 3), "U8")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.enter_context(held(self._temporary))
            # Unbuffered: what a full disk refuses would be tried again when the file is closed.
            self._file = self._files.enter_context(self._temporary.open("wb", buffering=0))
            self._put(memoryview(encode_header([info], [0], texts)))
        except OSError as error:
            self._abandon()
            raise self._failure(error) from error
        except BaseException:
            self._abandon()
            raise

    def _append(self, frames: np.ndarray) -> None:
        self._put(frames.reshape(-1).data)

    def _put(self, left: memoryview) -> None:
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failure(error) from error

    def _finish(self) -> None:
        if self.frames_written != self._count:
            raise ValueError(f"{self._path}: {self.frames_written} frames arrived, not {self._count}")
        publish(self._temporary, self._path)
        self._files.close()

    def _abandon(self) -> None:
        self._temporary.unlink(missing_ok=True)
        self._files.close()

    def _failure(self, error: OSError) -> MediaError:
        return MediaError(
            f"{self._path}: cannot be written ({error.strerror or error}). Check the free space and the "
            "folder's permissions."
        )


def read_frames_header(path: Path) -> Header:
    """What a file of frames says about itself.

    Raises:
        MediaError: it is damaged, or holds something else.
    """
    try:
        header = read_header(path)
    except CutShortError as error:
        raise MediaError(
            f"{path}: cut short, {error.on_disk} of {error.promised} are there. Begin anew without --resume."
        ) from error
    except CheckpointError as error:
        raise MediaError(f"{path}: holds no frames ({error}). Begin anew without --resume.") from error
    infos = [*header.infos.values()]
    if [(info.name, info.dtype, info.shape[3:]) for info in infos] != [(FRAMES_NAME, "U8", (3,))]:
        raise MediaError(
            f"{path}: holds no frames [F, H, W, 3]. Move it away, and begin anew without --resume."
        )
    return header


def read_frames_file(path: Path) -> Iterator[np.ndarray]:
    """Read frame after frame, uint8 [H, W, 3].

    Raises:
        MediaError: the file is damaged, or holds something else.
    """
    header = read_frames_header(path)
    shape = header.infos[FRAMES_NAME].shape
    frames = np.memmap(path, np.uint8, "r", header.data_start, shape)
    for frame in frames:
        yield np.array(frame)
