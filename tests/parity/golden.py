"""Arrays anyone can fill alike, in any language: inputs and weights of the recorded golden vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

WORD = 0xFFFFFFFF


def mix(words: np.ndarray) -> np.ndarray:
    """Scramble 32-bit words: the finalizer of MurmurHash3.

    Args:
        words: any shape, unsigned; only the low 32 bits count.

    Returns:
        Same shape, uint64 below 2^32.
    """
    h = words.astype(np.uint64) & WORD
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x85EBCA6B)) & WORD
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(0xC2B2AE35)) & WORD
    return h ^ (h >> np.uint64(16))


def uniform(count: int, salt: int) -> np.ndarray:
    """`count` numbers in [0, 1), float64; equal for equal salt."""
    start = (salt * 0x9E3779B9) & WORD
    return mix(np.arange(count, dtype=np.uint64) + np.uint64(start)) / 2.0**32


def fill(shape: tuple[int, ...], salt: int, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """An array of numbers in [offset - scale, offset + scale), float32, C order."""
    return (offset + scale * (2 * uniform(prod(shape), salt) - 1)).astype(np.float32).reshape(shape)


def fill_weight(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """A weight of a size that keeps activations in range.

    Args:
        name: the tensor's name in the official checkpoint; its ending decides.
        shape: as in the official checkpoint.
        salt: place of the name among all sorted names, from 1.
    """
    if name.endswith(("modulation", "emb_pos", "pos_embedding", "cls_embedding")):
        return fill(shape, salt, 0.5)
    if len(shape) == 1:
        return fill(shape, salt, 0.2, 1.0) if name.endswith(".weight") else fill(shape, salt, 0.1)
    return fill(shape, salt, 1.5 / sqrt(prod(shape[1:])))


def fill_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights of a whole network, by official names and shapes."""
    return {name: fill_weight(name, shapes[name], salt) for salt, name in enumerate(sorted(shapes), 1)}


@dataclass(frozen=True)
class Golden:
    """What is recorded of a result: its size, two means, and six of its values in C order."""

    size: int
    mean: float
    mean_abs: float
    values: tuple[float, ...]


def sample(result: np.ndarray) -> Golden:
    """The record of a result."""
    flat = result.astype(np.float64).reshape(-1)
    n = flat.size
    places: Iterable[int] = (0, 1, n // 3, n // 2, 2 * n // 3, n - 1)
    return Golden(n, float(flat.mean()), float(np.abs(flat).mean()), tuple(float(flat[i]) for i in places))


def assert_golden(result: np.ndarray, expected: Golden, tolerance: float = 1e-5) -> None:
    """Compare a result with its record.

    Args:
        result: float32.
        expected: from the official code in float32.
        tolerance: relative to the largest value; 1e-5 for networks is about a hundred float32 roundings.
    """
    found = sample(result)
    allowed = tolerance * float(np.abs(result).max())
    assert found.size == expected.size
    assert abs(found.mean - expected.mean) <= allowed
    assert abs(found.mean_abs - expected.mean_abs) <= allowed
    assert np.abs(np.subtract(found.values, expected.values)).max() <= allowed
