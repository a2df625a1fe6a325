"""What is known of a stored tensor before it is read: name, shape, dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.limits import MOST_TENSORS


@dataclass(frozen=True, slots=True)
class StoredType:
    """How one dtype lies in a file.

    Attributes:
        size: bytes of one element.
        mlx: the equal dtype of MLX; None where it has none.
        words: numpy dtype of the stored words, little-endian; bfloat16 and float8 are bare bits.
    """

    size: int
    mlx: mx.Dtype | None
    words: str


DTYPES: Mapping[str, StoredType] = MappingProxyType(
    {
        "F64": StoredType(8, None, "<f8"),
        "F32": StoredType(4, mx.float32, "<f4"),
        "F16": StoredType(2, mx.float16, "<f2"),
        "BF16": StoredType(2, mx.bfloat16, "<u2"),
        "I64": StoredType(8, mx.int64, "<i8"),
        "I32": StoredType(4, mx.int32, "<i4"),
        "I16": StoredType(2, mx.int16, "<i2"),
        "I8": StoredType(1, mx.int8, "|i1"),
        "U64": StoredType(8, mx.uint64, "<u8"),
        "U32": StoredType(4, mx.uint32, "<u4"),
        "U16": StoredType(2, mx.uint16, "<u2"),
        "U8": StoredType(1, mx.uint8, "|u1"),
        "BOOL": StoredType(1, mx.bool_, "|b1"),
        "F8_E4M3": StoredType(1, None, "|u1"),
        "F8_E5M2": StoredType(1, None, "|u1"),
        "F8_E8M0": StoredType(1, None, "|u1"),
    }
)
"""Safetensors spelling → how the dtype is stored.

Source: huggingface/safetensors safetensors/src/tensor.rs, Dtype.
"""

# Floating-point numbers that stand for themselves; eight bits mostly have a scale beside them.
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")


def dtype_name(dtype: mx.Dtype) -> str:
    """The safetensors spelling of an MLX dtype: mx.bfloat16 → "BF16".

    Raises:
        ValueError: safetensors has no such dtype.
    """
    for name, stored in DTYPES.items():
        if stored.mlx is not None and stored.mlx == dtype:
            return name
    raise ValueError(f"{dtype} has no safetensors spelling")


def check_count(path: Path, count: int) -> None:
    """Refuse a file of more tensors than any model has.

    Raises:
        CheckpointError: there are more than MOST_TENSORS.
    """
    if count > MOST_TENSORS:
        raise CheckpointError(
            f"{path}: its header names {count:,} tensors, at most {MOST_TENSORS:,} are read. "
            "Is it another file?"
        )


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor, without its numbers.

    Attributes:
        name: as spelled in the file, or in the source that renames it.
        shape: empty for a scalar.
        dtype: a key of `DTYPES`.
        stored_as: its name in the file, where that is another.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_as: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.name}: unknown dtype {self.dtype!r}")
        if any(length < 0 for length in self.shape):
            raise ValueError(f"{self.name}: negative length in shape {self.shape}")

    @property
    def title(self) -> str:
        """Its name for messages, with that in the file."""
        return f"{self.name} ({self.stored_as})" if self.stored_as not in ("", self.name) else self.name

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as stored."""
        return math.prod(self.shape) * DTYPES[self.dtype].size
