"""A short text that tells weight files apart, without reading the large ones whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from mlx_video.files.file_bytes import describe_bytes, open_for_reading, read_at, size_of
from mlx_video.formats.file_kind import recognise
from mlx_video.formats.safetensors_header import read_header

WHOLE_BYTES = 1 << 24
SAMPLE_BYTES = 4096
SAMPLES = 1024
_DIGITS = 16

Stamp = tuple[str, int, int, int, int, int]
"""Path, device, number, size and times of a file."""


def fingerprint_weights(path: Path) -> str:
    """Size and digest of a file: equal for copies, different for other weights of the same shapes.

    Files of up to `WHOLE_BYTES` are read whole. Of a larger safetensors file the header and some bytes from
    the middle of every tensor count; of any other large file, bytes at `SAMPLES` places.

    Args:
        path: a weight file; or a folder, of which all files count with their names.

    Returns:
        A text such as "28.58 GB, 3f2a9c0d11e4b7a6".

    Raises:
        CheckpointError: a file cannot be read, or is a damaged safetensors file.
    """
    digest, total = hashlib.sha256(), 0
    for file in (
        [path] if not path.is_dir() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    ):
        name = str(file.relative_to(path)) if path.is_dir() else ""
        size, content = _digest(file)
        digest.update(f"{name}\0{size}\0{content}\n".encode("utf-8", "surrogateescape"))
        total += size
    return f"{describe_bytes(total)}, {digest.hexdigest()[:_DIGITS]}"


def stamp_files(path: Path) -> tuple[Stamp, ...]:
    """What tells at once, without reading, that a file has been replaced or written since an earlier stamp.

    Args:
        path: a file; or a folder, of which all files count. What cannot be looked at has no stamp.
    """
    stamps: list[Stamp] = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        with suppress(OSError):
            found = file.stat()
            times = found.st_mtime_ns, found.st_ctime_ns
            stamps.append((str(file), found.st_dev, found.st_ino, found.st_size, *times))
    return tuple(stamps)


def _digest(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with open_for_reading(path) as file:
        size = size_of(file)
        for begin, count in _places(path, size):
            digest.update(_read(file, path, begin, min(count, size - begin)))
    return size, digest.hexdigest()


def _places(path: Path, size: int) -> Iterable[tuple[int, int]]:
    """Where a file is read: begin and number of bytes."""
    if size <= WHOLE_BYTES:
        return [(0, size)]
    if recognise(path) != "safetensors":
        return [(size * index // SAMPLES, SAMPLE_BYTES) for index in range(SAMPLES)]
    header = read_header(path)
    middles = [header.data_start + (begin + end) // 2 for begin, end in header.offsets.values()]
    return [(0, header.data_start), *((middle, SAMPLE_BYTES) for middle in middles)]


def _read(file: FileIO, path: Path, begin: int, count: int) -> bytes:
    return read_at(file, path, begin, count).tobytes()
