"""The first latents of a run, drawn from a seed: the numbers of PyTorch on a CPU, or those of MLX."""

from __future__ import annotations

import math
from typing import get_args

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_video.request import MAX_SEED, NoiseKind

GROUP = 16  # torch fills larger tensors in groups: eight cosines, then the eight sines that belong to them


def draw_noise(kind: NoiseKind, seed: int, shape: tuple[int, ...]) -> mx.array:
    """Draw standard normal noise.

    Args:
        kind: "torch" for what ``torch.randn(shape, generator=g)`` draws after
            ``g = torch.Generator("cpu").manual_seed(seed)``; "mlx" for ``mx.random.normal`` with
            ``key=mx.random.key(seed)``.
        seed: 0 to 2**64 - 1. torch's generator uses the lowest 32 bits only.
        shape: of the latents, [C, T, H, W].

    Returns:
        The noise, float32. "torch" agrees with torch on x86 processors within 5e-7, wherever it runs.

    Raises:
        ValueError: unknown kind, or a seed out of range.
    """
    if kind not in get_args(NoiseKind):
        raise ValueError(f"no noise {kind!r}; choose from {', '.join(get_args(NoiseKind))}")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is outside 0 to 2**64 - 1")
    if kind == "mlx":
        return mx.random.normal(shape, key=mx.random.key(seed))
    return mx.array(_torch_normals(seed, math.prod(shape)).reshape(shape))


def _torch_normals(seed: int, count: int) -> npt.NDArray[np.float32]:
    """The first `count` numbers of torch.randn; small tensors take another path through torch.

    Source: PyTorch aten/src/ATen/native/cpu/DistributionTemplates.h, normal_kernel.
    """
    engine = np.random.RandomState(seed % 2**32)  # seeds its Mersenne Twister as torch does
    if count < GROUP:
        return _few_normals(engine, count)
    uniform = _uniform24(engine, count)
    normals = np.empty(count, np.float32)
    whole = count - count % GROUP
    normals[:whole] = _box_muller(uniform[:whole])
    if whole < count:  # a last group that is not full overlaps the one before it, with new numbers
        normals[-GROUP:] = _box_muller(_uniform24(engine, GROUP))
    return normals


def _draw_words(engine: np.random.RandomState, count: int) -> npt.NDArray[np.uint32]:
    """The engine's next 32-bit numbers, as they are."""
    return engine.randint(2**32, size=count, dtype=np.uint32)


def _uniform24(engine: np.random.RandomState, count: int) -> npt.NDArray[np.float32]:
    """Numbers in [0, 1) of 24 bits each."""
    bits = _draw_words(engine, count) & np.uint32(2**24 - 1)
    return bits.astype(np.float32) * np.float32(2**-24)


def _box_muller(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Uniform numbers → normal numbers, [16·n] → [16·n].

    Source: PyTorch aten/src/ATen/native/cpu/DistributionTemplates.h, normal_fill_AVX2.
    """
    pairs = uniform.reshape(-1, 2, GROUP // 2)
    # The angle is rounded to float32 as torch does on x86: one rounding there moves results by up to 2e-6.
    # All else is float64, so that numpy's SIMD paths give the same float32 numbers on every machine.
    angle = (np.float32(2 * math.pi) * pairs[:, 1]).astype(np.float64)
    radius = np.sqrt(-2 * np.log((1 - pairs[:, 0]).astype(np.float64)))
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals.astype(np.float32).reshape(-1)


def _few_normals(engine: np.random.RandomState, count: int) -> npt.NDArray[np.float32]:
    """Normal numbers in float64 from two uniform numbers of 53 bits, a cosine and a sine in turn.

    Source: PyTorch aten/src/ATen/core/DistributionsHelper.h, normal_distribution.
    """
    high, low = _draw_words(engine, 4 * math.ceil(count / 2)).astype(np.uint64).reshape(-1, 2).T
    bits = (high << np.uint64(32) | low) & np.uint64(2**53 - 1)
    turn, depth = (bits * 2.0**-53).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log1p(-depth)), 2 * math.pi * turn
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals.reshape(-1)[:count].astype(np.float32)
