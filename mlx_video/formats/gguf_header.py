"""The header of a GGUF file: what it says of itself, and where each tensor lies and how it is packed.

Read without the gguf package's reader, which maps the file into memory and makes an object of every word of a
tokenizer's vocabulary.

Source: ggml-org/ggml docs/gguf.md, "File Structure".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import BufferedReader, FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlx_video.errors import CheckpointError
from mlx_video.files.file_bytes import describe_two_sizes, open_for_reading, size_of
from mlx_video.formats.file_kind import recognise, refusal
from mlx_video.formats.sentencepiece_model import LISTS, build_sentencepiece_model
from mlx_video.formats.tensor_info import check_count
from mlx_video.limits import LARGEST_HEADER_BYTES, MOST_TENSORS

Value = str | int | float | bool | tuple[int, ...]

# Type → elements of a block, bytes of a block. Plain types are called as in safetensors.
# Source: ggml-org/ggml src/ggml-common.h, the block structures.
_PLAIN_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
BLOCKS: Mapping[str, tuple[int, int]] = {
    **{name: (1, size) for name, size in _PLAIN_BYTES.items()},
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ1_S": (256, 50),
    "IQ1_M": (256, 56),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98),
    "IQ3_S": (256, 110),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "MXFP4": (32, 17),
}
# Types that older versions of the gguf package cannot unpack.
_RECENT = ("MXFP4",)
# In the order of their numbers. Source: ggml-org/ggml include/ggml.h, ggml_type.
_TYPE_NAMES = (
    "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS "
    "IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 "
    "IQ4_NL_4_4 IQ4_NL_4_8 IQ4_NL_8_8 MXFP4 NVFP4"
).split()

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MOST_AXES = 8
_LONGEST_KEPT_ARRAY = _MOST_AXES
_STRING, _ARRAY = 8, 9
# Source: ggml-org/ggml docs/gguf.md, gguf_metadata_value_type.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOATS = (6, 12)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a GGUF file.

    Attributes:
        name: as spelled in the file.
        shape: in torch's order, rows first.
        kind: a key of `BLOCKS`; blocks follow the elements, row after row.
        position: byte of the first block, from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    position: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        elements, size = BLOCKS[self.kind]
        return math.prod(self.shape) // elements * size


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        tensors: in the order of the file.
        metadata: texts, numbers and short lists of whole numbers; long lists are left out.
        lists: those of a tokenizer; texts as bytes.
    """

    tensors: tuple[GgufTensor, ...]
    metadata: Mapping[str, Value]
    lists: Mapping[str, Sequence[Any]]

    def build_tokenizer(self) -> bytes:
        """A `spiece.model` of the tokenizer that the metadata spell out; empty where they do not."""
        return build_sentencepiece_model(self.metadata, self.lists)


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; no tensor is read.

    Args:
        path: the file.

    Returns:
        Every tensor's description, after checking that each lies inside the file.

    Raises:
        CheckpointError: the file is something else, is truncated or damaged, is of an unknown version or byte
            order, or holds tensors of a type that cannot be decoded.
    """
    kind = recognise(path)
    if kind != "gguf":
        raise refusal(path, kind)
    with open_for_reading(path) as file:
        file_bytes = size_of(file)
        reader = _Reader(path, BufferedReader(file, 1 << 20), file_bytes)
        tensor_count, metadata_count = _read_counts(reader)
        check_count(path, tensor_count)
        if metadata_count > MOST_TENSORS:
            raise reader.damaged(f"it names {metadata_count:,} entries, at most {MOST_TENSORS:,} are read")
        metadata = dict(reader.entry() for _ in range(metadata_count))
        found = [_read_tensor(reader, metadata) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise reader.damaged(f"general.alignment is {alignment}, which is no power of two")
        data_start = -(-reader.position // alignment) * alignment
    tensors = [GgufTensor(name, shape, kind, data_start + offset) for name, shape, kind, offset in found]
    _check_places(path, tensors, file_bytes, alignment)
    return GgufHeader(tuple(tensors), metadata, reader.lists)


class _Reader:
    """Reads little-endian values one after another and refuses to run past the file's end.

    Attributes:
        position: of the next byte.
        lists: those of a tokenizer; texts as bytes.
    """

    def __init__(self, path: Path, file: BufferedReader[FileIO], file_bytes: int) -> None:
        self.path = path
        self.position = 0
        self.lists: dict[str, Sequence[Any]] = {}
        self._file = file
        self._end = min(file_bytes, LARGEST_HEADER_BYTES)
        self._file_bytes = file_bytes

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: damaged header, {what}. Download the file again.")

    def take(self, nbytes: int) -> bytes:
        if self.position + nbytes > self._end:
            what = f"it ends at byte {self._end:,} in the middle of a value"
            if self._end < self._file_bytes:
                what = f"it is longer than {LARGEST_HEADER_BYTES:,} bytes"
            raise self.damaged(what)
        self.position += nbytes
        return self._file.read(nbytes)

    def numbers(self, code: str, count: int = 1) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))

    def text(self) -> str:
        (length,) = self.numbers("Q")
        return self.take(length).decode("utf-8", "replace")

    def entry(self) -> tuple[str, Value]:
        key = self.text()
        (kind,) = self.numbers("I")
        return key, self._array(key) if kind == _ARRAY else self._value(key, kind)

    def _value(self, key: str, kind: int) -> Value:
        if kind == _STRING:
            return self.text()
        if kind not in _SCALARS:
            raise self.damaged(f"{key} has type {kind}, which there is none of")
        return self.numbers(_SCALARS[kind])[0]

    def _array(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; empty if it holds something else or is long."""
        kind, count = struct.unpack("<IQ", self.take(12))
        if kind == _STRING:
            texts = [self.take(self.numbers("Q")[0]) for _ in range(count)]
            if key in LISTS:
                self.lists[key] = texts
            return ()
        if kind not in _SCALARS:
            raise self.damaged(f"{key} is a list of type {kind}, which there is none of")
        if key in LISTS:
            self.lists[key] = self.numbers(_SCALARS[kind], count)
        elif count > _LONGEST_KEPT_ARRAY or kind in _FLOATS:
            self.take(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        else:
            return self.numbers(_SCALARS[kind], count)
        return ()


def _read_counts(reader: _Reader) -> tuple[int, int]:
    """How many tensors and how many metadata entries follow."""
    magic = reader.take(4)
    (version,) = reader.numbers("I")
    if magic != _MAGIC or version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
        found = "is big-endian" if swapped else f"is of GGUF version {version}"
        raise CheckpointError(
            f"{reader.path}: {found}, only little-endian files of versions {_VERSIONS[0]} and {_VERSIONS[1]} "
            "are read. Use another GGUF file of this model, or the bf16 safetensors file."
        )
    tensors, metadata = reader.numbers("Q", 2)
    return tensors, metadata


def _read_tensor(reader: _Reader, metadata: Mapping[str, Value]) -> tuple[str, tuple[int, ...], str, int]:
    """Name, shape, type and offset in the data."""
    name = reader.text()
    (axes,) = reader.numbers("I")
    if axes > _MOST_AXES:
        raise reader.damaged(f"{name} has {axes} axes")
    lengths = reader.numbers("Q", axes)
    (kind,) = reader.numbers("I")
    (offset,) = reader.numbers("Q")
    shape = tuple(reversed(lengths))
    return name, _true_shape(name, shape, metadata), _checked_kind(reader, name, shape, kind), offset


def _true_shape(name: str, shape: tuple[int, ...], metadata: Mapping[str, Value]) -> tuple[int, ...]:
    """The shape before a converter folded axes that GGUF or its quantizer could not hold.

    Source: city96/ComfyUI-GGUF loader.py, get_orig_shape.
    """
    stated = metadata.get(f"comfy.gguf.orig_shape.{name}")
    if isinstance(stated, tuple) and math.prod(stated) == math.prod(shape) and min(stated, default=1) >= 0:
        return stated or shape
    return shape


def _checked_kind(reader: _Reader, name: str, shape: Sequence[int], number: int) -> str:
    kind = _TYPE_NAMES[number] if number < len(_TYPE_NAMES) else f"type {number}"
    if kind not in BLOCKS:
        raise CheckpointError(
            f"{reader.path}: {name} is {kind}, which is not supported. "
            "Use the Q8_0, Q6_K, Q5_K_M, Q4_K_M or bf16 file of this model."
        )
    if kind in _RECENT:
        _check_package(reader.path, name, kind)
    elements, _ = BLOCKS[kind]
    if elements > 1 and (not shape or shape[-1] % elements):
        raise reader.damaged(f"{name} {list(shape)} is {kind}, which packs {elements} neighbours of a row")
    return kind


def _check_package(path: Path, name: str, kind: str) -> None:
    """Refuse a type that the installed gguf package does not know, before anything is read or written."""
    # An import for a package that only packed tensors need.
    from gguf import quants

    if not hasattr(quants, kind):
        raise CheckpointError(
            f"{path}: {name} is {kind}, which the installed gguf package {version('gguf')} cannot unpack. "
            "Update it (pip install --upgrade gguf), or use the Q8_0 or bf16 file of this model."
        )


def _check_places(path: Path, tensors: Sequence[GgufTensor], file_bytes: int, alignment: int) -> None:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise CheckpointError(
                f"{path}: damaged header, {tensor.name} occurs twice. Download the file again."
            )
        seen.add(tensor.name)
        if tensor.position % alignment:
            raise CheckpointError(
                f"{path}: damaged header, {tensor.name} begins at byte {tensor.position:,}, which is no "
                f"multiple of {alignment}. Download the file again."
            )
    for before, after in pairwise(sorted(tensors, key=lambda tensor: (tensor.position, tensor.nbytes))):
        if before.position + before.nbytes > after.position:
            raise CheckpointError(
                f"{path}: damaged header, {after.name} begins at byte {after.position:,}, inside of "
                f"{before.name}. Download the file again."
            )
    end = max((tensor.position + tensor.nbytes for tensor in tensors), default=0)
    if end > file_bytes:
        on_disk, expected = describe_two_sizes(file_bytes, end)
        raise CheckpointError(f"{path}: {on_disk} on disk, header promises {expected}. Download it again.")
