"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlx_video.errors import CheckpointError, UnknownFormatError
from mlx_video.files.file_bytes import describe_bytes, open_for_reading, read_at, size_of
from mlx_video.files.unusable_paths import APPLE_DOUBLE_START, describe_apple_double, has_apple_double_name
from mlx_video.limits import LARGEST_HEADER_BYTES

FileKind = Literal[
    "safetensors", "zip", "legacy_torch", "pickle", "gguf", "lfs_pointer", "html", "json", "apple_double",
    "empty", "unknown",
]  # fmt: skip

# torch.save before 1.6 begins with this number, pickled.
# Source: pytorch torch/serialization.py, MAGIC_NUMBER.
_LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")

_STARTS: tuple[tuple[bytes, FileKind], ...] = (
    (b"pk\x03\x04", "zip"),
    (b"pk\x05\x06", "zip"),
    (_LEGACY_TORCH.lower(), "legacy_torch"),
    (b"\x80", "pickle"),
    (b"gguf", "gguf"),
    (b"version https://git-lfs", "lfs_pointer"),
    (b"<!doctype", "html"),
    (b"<html", "html"),
    (b"<?xml", "html"),
    (b"{", "json"),
    (APPLE_DOUBLE_START, "apple_double"),
)

_REFUSALS: dict[FileKind, str] = {
    "safetensors": "is a safetensors file. Give it a .safetensors name.",
    "zip": "is a zip archive, as torch.save makes them, not safetensors. Give it a .pth name.",
    "legacy_torch": "is in the format torch used before 1.6, which cannot be read in parts. "
    "Load it with torch and save it again with torch.save.",
    "pickle": "is a bare Python pickle, not a torch archive; refused. Use a safetensors version.",
    "gguf": "is a GGUF file, not safetensors. Give it a .gguf name.",
    "lfs_pointer": "this is a Git LFS pointer ({size}), not weights. Run git lfs pull.",
    "html": "is an HTML page ({size}), not weights; the download needs a login or an accepted licence.",
    "json": "is JSON text ({size}), not weights. Look inside for what the download answered.",
    "empty": "is empty. Download it again.",
    "unknown": "is neither safetensors, GGUF nor a torch archive ({size}, begins with {start}). "
    "Download it again.",
}


def recognise(path: Path) -> FileKind:
    """Tell a file's format from its first bytes.

    Raises:
        CheckpointError: the file cannot be opened.
    """
    start, size = _read_start(path)
    if not size:
        return "empty"
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER_BYTES:
        return "safetensors"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for magic, kind in _STARTS if text.startswith(magic)), "unknown")


def refusal(path: Path, kind: FileKind) -> CheckpointError:
    """The error for a file that is not what is needed here: says what it is and what to do."""
    if kind == "apple_double" or (kind in ("empty", "unknown") and has_apple_double_name(path)):
        return CheckpointError(f"{path}: {describe_apple_double(path)}")
    start, size = _read_start(path)
    shown = " ".join(f"{byte:02x}" for byte in start[:9])
    error = UnknownFormatError if kind in ("legacy_torch", "pickle") else CheckpointError
    return error(f"{path}: {_REFUSALS[kind].format(size=describe_bytes(size), start=shown)}")


def refuse_stand_in(path: Path) -> None:
    """Refuse a Git LFS pointer, an HTML page, an AppleDouble file or nothing, where a file should lie.

    Raises:
        CheckpointError: it is one of these, or cannot be opened.
    """
    kind = recognise(path)
    if kind in ("lfs_pointer", "html", "apple_double", "empty"):
        raise refusal(path, kind)


def _read_start(path: Path) -> tuple[bytes, int]:
    with open_for_reading(path) as file:
        size = size_of(file)
        return read_at(file, path, 0, min(size, 64)).tobytes(), size
