"""Bytes of a file at a position, and sizes in words."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

import numpy as np

from mlx_video.errors import CheckpointError
from mlx_video.files.unusable_paths import explain_missing, is_dangling
from mlx_video.limits import LARGEST_TEXT_BYTES

# macOS refuses a single read or write of 2 GiB or more.
_LARGEST_CALL_BYTES = 1 << 28


def refuse_dangling(*paths: Path) -> None:
    """Refuse links whose target is not there, which would otherwise count as absent.

    Raises:
        CheckpointError: a path is, or lies behind, such a link.
    """
    for path in filter(is_dangling, paths):
        raise CheckpointError(f"{path}: {explain_missing(path, '')}")


def open_for_reading(path: Path) -> FileIO:
    """Open a weight file without buffering.

    Raises:
        CheckpointError: the file is absent, is a folder, a pipe or a device, or may not be read.
    """
    try:
        # A pipe to which nobody writes would be waited for else.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        reason = explain_missing(path, "not found. Check the path, or download the file.")
        raise CheckpointError(f"{path}: {reason}") from error
    except (OSError, ValueError) as error:  # the latter is how Python refuses a null byte
        what = error.strerror if isinstance(error, OSError) else error
        reason = explain_missing(path, f"cannot be opened ({what}). Check its permissions.")
        raise CheckpointError(f"{path}: {reason}") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb", buffering=0)
    os.close(descriptor)
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
    raise CheckpointError(f"{path}: is {what}, a file is expected here.")


def read_text_file(path: Path, most_bytes: int = LARGEST_TEXT_BYTES) -> bytes:
    """The content of a small file.

    Args:
        path: the file.
        most_bytes: that it may have.

    Raises:
        CheckpointError: the file is larger, or cannot be read.
    """
    with open_for_reading(path) as file:
        nbytes = size_of(file)
        if nbytes > most_bytes:
            raise CheckpointError(
                f"{path}: has {describe_bytes(nbytes)}, at most {describe_bytes(most_bytes)} are read. "
                "Is it another file?"
            )
        return read_at(file, path, 0, nbytes).tobytes()


def open_for_writing(path: Path) -> FileIO:
    """Make a file, or empty an older one, without buffering.

    Raises:
        CheckpointError: the folder is absent, or the file may not be written.
    """
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}). Check that the folder exists and is yours."
        ) from error


def size_of(file: FileIO) -> int:
    """Bytes that an open file holds on disk."""
    return os.fstat(file.fileno()).st_size


def read_at(file: FileIO, path: Path, position: int, nbytes: int) -> np.ndarray:
    """Copy a range of a file into a fresh buffer; the file is never mapped into memory.

    Args:
        file: open for reading; several threads may read from it at once.
        path: for the message.
        position: bytes from the start of the file.
        nbytes: how many bytes to copy.

    Returns:
        [nbytes], uint8.

    Raises:
        CheckpointError: the file ends inside the range, or the device reports an error.
    """
    buffer = np.empty(nbytes, dtype=np.uint8)
    read_into(file, path, position, buffer.data)
    return buffer


def read_into(file: FileIO, path: Path, position: int, memory: memoryview) -> None:
    """Fill memory with a range of a file; other threads run meanwhile.

    Args:
        file: open for reading; several threads may read from it at once.
        path: for the message.
        position: bytes from the start of the file.
        memory: flat bytes, writable; as many are read.

    Raises:
        CheckpointError: as :func:`read_at`.
    """
    done, nbytes = 0, memory.nbytes
    while done < nbytes:
        try:
            got = os.preadv(file.fileno(), [memory[done : done + _LARGEST_CALL_BYTES]], position + done)
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read at byte {position + done:,} ({error.strerror}). "
                "Check the disk, or copy the file again."
            ) from error
        if got == 0:
            raise CheckpointError(
                f"{path}: ends at byte {position + done:,}, {nbytes - done:,} bytes too early. "
                "It changed while being read; download it again."
            )
        done += got


def write_at(file: FileIO, path: Path, position: int, data: memoryview) -> None:
    """Write bytes at a position, whatever was written before.

    Args:
        file: open for writing.
        path: for the message.
        position: bytes from the start of the file.
        data: flat bytes.

    Raises:
        CheckpointError: the disk is full or reports an error.
    """
    done = 0
    while done < data.nbytes:
        try:
            done += os.pwrite(file.fileno(), data[done : done + _LARGEST_CALL_BYTES], position + done)
        except OSError as error:
            raise _explain_write(error, path, f" at byte {position + done:,}") from error


def flush(file: FileIO, path: Path) -> None:
    """Wait until the disk has what was written; other threads run meanwhile.

    Raises:
        CheckpointError: the disk is full or reports an error.
    """
    try:
        os.fsync(file.fileno())
    except OSError as error:
        raise _explain_write(error, path) from error


def _explain_write(error: OSError, path: Path, place: str = "") -> CheckpointError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if is_full else f"cannot be written ({error.strerror})"
    return CheckpointError(f"{path}: {reason}{place}. Free some space, or write to another disk.")


def describe_bytes(count: int) -> str:
    """A size for people: 9.94 GB, 507.6 MB, 134 bytes (powers of ten)."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} GB"
    if count >= 10**6:
        return f"{count / 1e6:.1f} MB"
    return f"{count:,} bytes"


def describe_two_sizes(first: int, second: int) -> tuple[str, str]:
    """Two different sizes that must not look equal: to the byte where rounding would hide the difference."""
    texts = describe_bytes(first), describe_bytes(second)
    return texts if texts[0] != texts[1] else (f"{first:,} bytes", f"{second:,} bytes")
