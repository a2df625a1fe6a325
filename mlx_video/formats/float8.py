"""Eight-bit floating-point codes as float32 numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

FLOAT8_DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0")
# Codes looked up at once: the positions that numpy makes of them take eight bytes each.
_PIECE = 1 << 18


def decode_float8(codes: np.ndarray, dtype: str) -> np.ndarray:
    """Turn stored codes into the numbers they stand for, exactly; NaN codes become NaN.

    A table, not the device's conversion: GPUs differ in what they make of NaN and of subnormal numbers.

    Args:
        codes: uint8, any shape.
        dtype: one of `FLOAT8_DTYPES`.

    Returns:
        Float32 of the same shape, row after row.

    Source: arXiv 2209.05433, table 1 (E4M3, E5M2); OCP Microscaling Formats 1.0, section 5.4.1 (E8M0).
    """
    table, flat = _TABLES[dtype], np.ascontiguousarray(codes).reshape(-1)
    numbers = np.empty(flat.size, np.float32)
    for start in range(0, flat.size, _PIECE):
        np.take(table, flat[start : start + _PIECE], out=numbers[start : start + _PIECE], mode="clip")
    return numbers.reshape(codes.shape)


def _numbers(exponent_bits: int, mantissa_bits: int, bias: int) -> np.ndarray:
    """All 256 codes of a format with sign, as if each were a finite number."""
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    size = np.where(exponent, 1 + fraction, fraction) * 2.0 ** (np.maximum(exponent, 1) - bias)
    return np.copysign(size, np.where(codes & 0x80, -1.0, 1.0)).astype(np.float32)


def _e4m3() -> np.ndarray:
    numbers = _numbers(4, 3, 7)
    numbers[[0x7F, 0xFF]] = np.nan  # no infinities: the other codes of the top exponent are numbers
    return numbers


def _e5m2() -> np.ndarray:
    numbers = _numbers(5, 2, 15)
    numbers[[0x7C, 0xFC]] = np.inf, -np.inf
    numbers[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return numbers


def _e8m0() -> np.ndarray:
    numbers = 2.0 ** (np.arange(256) - 127.0)
    numbers[0xFF] = np.nan
    return numbers.astype(np.float32)


_TABLES: Mapping[str, np.ndarray] = MappingProxyType(
    {"F8_E4M3": _e4m3(), "F8_E5M2": _e5m2(), "F8_E8M0": _e8m0()}
)
