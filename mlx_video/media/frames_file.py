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

FRAMES_NAME, LATENTS_NAME = "frames", "latents"
DTYPES: Mapping[str, type[np.generic]] = {"U8": np.uint8, "F32": np.float32}
"""What numbers of frames may be, by the names that safetensors has for them."""


class FramesFileWriter(FrameWriter):
    """Writes frames [F, H, W, 3] as they are, so that none stays in memory.

    Args:
        path: final name.
        count: frames that will arrive.
        width: pixels.
        height: pixels.
        texts: the file's metadata.
        dtype: "U8" for uint8, "F32" for float32.
        latents: that the frames were decoded from, float32 [C, T, H, W], to lie beside them; None for none.

    Raises:
        MediaError: the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        width: int,
        height: int,
        texts: Mapping[str, str],
        dtype: str = "U8",
        latents: np.ndarray | None = None,
    ) -> None:
        super().__init__(width, height, DTYPES[dtype])
        self._path, self._count = path, count
        self._temporary = temporary_sibling(path)
        self._files = ExitStack()
        info = TensorInfo(FRAMES_NAME, (count, height, width, 3), dtype)
        before = [] if latents is None else [TensorInfo(LATENTS_NAME, latents.shape, "F32")]
        begins = [0, before[0].nbytes] if before else [0]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.enter_context(held(self._temporary))
            # Unbuffered: what a full disk refuses would be tried again when the file is closed.
            self._file = self._files.enter_context(self._temporary.open("wb", buffering=0))
            self._put(memoryview(encode_header([*before, info], begins, texts)))
            if latents is not None:
                self._put(np.ascontiguousarray(latents, np.float32).reshape(-1).data.cast("B"))
        except OSError as error:
            self._abandon()
            raise self._failure(error) from error
        except BaseException:
            self._abandon()
            raise

    def _append(self, frames: np.ndarray) -> None:
        self._put(frames.reshape(-1).data.cast("B"))

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
    *others, last = header.infos.values()
    are_frames = last.name == FRAMES_NAME and last.shape[3:] == (3,) and last.dtype in DTYPES
    if not are_frames or [(info.name, info.dtype) for info in others] not in ([], [(LATENTS_NAME, "F32")]):
        raise MediaError(
            f"{path}: holds no frames [F, H, W, 3]. Move it away, and begin anew without --resume."
        )
    return header


def read_frames_file(path: Path) -> Iterator[np.ndarray]:
    """Read frame after frame, [H, W, 3].

    Raises:
        MediaError: the file is damaged, or holds something else.
    """
    header = read_frames_header(path)
    info = header.infos[FRAMES_NAME]
    begin = header.data_start + header.offsets[FRAMES_NAME][0]
    frames = np.memmap(path, DTYPES[info.dtype], "r", begin, info.shape)
    for frame in frames:
        yield np.array(frame)


def read_latents_beside(path: Path) -> np.ndarray | None:
    """The latents in a file of frames, float32 [C, T, H, W]; None where it has none.

    Raises:
        MediaError: the file is damaged, or holds something else.
    """
    header = read_frames_header(path)
    info = header.infos.get(LATENTS_NAME)
    if info is None:
        return None
    return np.array(np.memmap(path, np.float32, "r", header.data_start, info.shape))
