"""The header of a safetensors file: eight bytes of length, then JSON that says where each tensor lies.

The offsets in it must tile the data behind it without a gap.

Source: huggingface/safetensors README.md, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mlx_video.errors import CheckpointError
from mlx_video.files.file_bytes import describe_two_sizes, open_for_reading, read_at, size_of
from mlx_video.formats.file_kind import recognise, refusal
from mlx_video.formats.tensor_info import DTYPES, TensorInfo, check_count
from mlx_video.limits import MOST_AXES

METADATA_KEY = "__metadata__"
_ALIGNMENT = 64
_LARGEST_COUNT = 2**63


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says about itself.

    Attributes:
        infos: name → tensor, in the order of the data.
        data_start: byte of the file where the data begins.
        metadata: the free texts; empty where the file has none.
        offsets: name → (begin, end) in bytes from `data_start`.
    """

    infos: Mapping[str, TensorInfo]
    data_start: int
    metadata: Mapping[str, str]
    offsets: Mapping[str, tuple[int, int]]


class CutShortError(CheckpointError):
    """A file that ends before its header says; both sizes are in words."""

    def __init__(self, message: str, on_disk: str, promised: str) -> None:
        super().__init__(message)
        self.on_disk = on_disk
        self.promised = promised


class DamagedHeaderError(CheckpointError):
    """A header that is not as it must be; `what` says so in words."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: damaged header, {what}. Download the file again.")
        self.what = what


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no tensor is read.

    Args:
        path: the file.

    Returns:
        Every tensor's description, after checking that together they cover the file exactly.

    Raises:
        CheckpointError: the file is something else (an HTML page, a Git LFS pointer, a zip, …), is truncated
            or over-long, or its header is damaged.
    """
    kind = recognise(path)
    if kind != "safetensors":
        raise refusal(path, kind)
    with open_for_reading(path) as file:
        file_bytes = size_of(file)
        header_bytes = int.from_bytes(read_at(file, path, 0, 8).tobytes(), "little")
        if 8 + header_bytes > file_bytes:
            raise _truncated(path, file_bytes, 8 + header_bytes)
        text = read_at(file, path, 8, header_bytes).tobytes()
    check_count(path, text.count(b'"data_offsets"'))
    entries = _parse_json(path, text)
    metadata = _checked_metadata(path, entries.pop(METADATA_KEY, None))
    tensors = sorted((_parse_entry(path, name, entry) for name, entry in entries.items()), key=lambda t: t[1])
    _check_tiling(path, tensors, file_bytes - 8 - header_bytes)
    return Header(
        infos={info.name: info for info, _ in tensors},
        data_start=8 + header_bytes,
        metadata=metadata,
        offsets={info.name: offsets for info, offsets in tensors},
    )


def _truncated(path: Path, file_bytes: int, promised: int) -> CheckpointError:
    on_disk, expected = describe_two_sizes(file_bytes, promised)
    return CutShortError(
        f"{path}: {on_disk} on disk, header promises {expected}. Download it again.", on_disk, expected
    )


def _parse_json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise DamagedHeaderError(path, f"no valid JSON ({error})") from error
    if not isinstance(entries, dict):
        raise DamagedHeaderError(path, "no JSON object")
    return entries


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{name!r} occurs twice")
        entries[name] = value
    return entries


def _checked_metadata(path: Path, metadata: object) -> Mapping[str, str]:
    # MLX writes null where it has no metadata.
    if metadata is None:
        return {}
    if isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values()):
        return metadata
    raise DamagedHeaderError(path, f"{METADATA_KEY} holds something else than texts")


def _parse_entry(path: Path, name: str, entry: object) -> tuple[TensorInfo, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise DamagedHeaderError(path, f"{name} is not described")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: {name} has dtype {dtype}, which this version does not know. Use the bf16 or fp16 file."
        )
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise DamagedHeaderError(path, f"{name} has shape {shape} and data_offsets {offsets}")
    if len(shape) > MOST_AXES:
        raise DamagedHeaderError(path, f"{name} has {len(shape):,} axes, at most {MOST_AXES} are read")
    info = TensorInfo(name, tuple(shape), dtype)
    begin, end = offsets
    if end - begin != info.nbytes:
        what = f"{name} {dtype} {shape} takes {info.nbytes:,} bytes, not {end - begin:,}"
        raise DamagedHeaderError(path, what)
    return info, (begin, end)


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _LARGEST_COUNT for item in value)


def _check_tiling(path: Path, tensors: Sequence[tuple[TensorInfo, tuple[int, int]]], data_bytes: int) -> None:
    at = 0
    for info, (begin, end) in tensors:
        if begin != at:
            what = "overlaps the tensor before it" if begin < at else "leaves a hole before it"
            raise DamagedHeaderError(
                path, f"{info.name} begins at byte {begin:,} of the data instead of {at:,} and {what}"
            )
        at = end
    if at > data_bytes:
        file_bytes = path.stat().st_size
        raise _truncated(path, file_bytes, file_bytes + at - data_bytes)
    if at < data_bytes:
        raise CheckpointError(
            f"{path}: {data_bytes - at:,} bytes at the end belong to no tensor "
            f"(data {data_bytes:,} bytes, header promises {at:,}). Download it again."
        )


def encode_header(
    ordered: Sequence[TensorInfo], begins: Sequence[int], metadata: Mapping[str, str] | None
) -> bytes:
    """The header of a file to be written, with its length before it and spaces up to a multiple of 64 bytes.

    Args:
        ordered: the tensors in the order of their data.
        begins: where each one begins in the data.
        metadata: free texts.

    Returns:
        Everything that stands before the data.
    """
    entries: dict[str, object] = {} if metadata is None else {METADATA_KEY: dict(metadata)}
    for info, begin in zip(ordered, begins, strict=False):
        offsets = [begin, begin + info.nbytes]
        entries[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
