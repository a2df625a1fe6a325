"""Noise drawn from a seed: the numbers of PyTorch on a CPU, or those of MLX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_video.request import MAX_SEED, NoiseKind

GROUP = 16  # torch fills larger tensors in groups: eight cosines, then the eight sines that belong to them


class NoiseSource(Protocol):
    """Standard normal noise from a seed, one draw after another."""

    def draw(self, shape: tuple[int, ...]) -> mx.array:
        """Draw the next noise, float32 of any shape."""

    def skip(self, shape: tuple[int, ...], times: int) -> None:
        """Go on as if noise of this shape had been drawn so often."""

    def state(self) -> dict[str, mx.array]:
        """Arrays that the next draw depends on, by name."""

    def restore(self, state: dict[str, mx.array]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: the state is of another source.
        """


def open_noise(kind: NoiseKind, seed: int) -> NoiseSource:
    """Open the source of a run's noise, at its first draw.

    Args:
        kind: "torch" for what ``torch.randn(shape, generator=g)`` draws, call after call, from
            ``g = torch.Generator("cpu").manual_seed(seed)``; "mlx" for ``mx.random.normal`` with
            ``key=mx.random.key(seed)``, and keys split from that one for further draws.
        seed: 0 to 2**64 - 1. torch's generator uses the lowest 32 bits only.

    Raises:
        ValueError: unknown kind, or a seed out of range.
    """
    if kind not in SOURCES:
        raise ValueError(f"no noise {kind!r}; choose from {', '.join(SOURCES)}")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is outside 0 to 2**64 - 1")
    return SOURCES[kind](seed)


def draw_noise(kind: NoiseKind, seed: int, shape: tuple[int, ...]) -> mx.array:
    """Draw the first noise of a seed; arguments and errors of :func:`open_noise`."""
    return open_noise(kind, seed).draw(shape)


class TorchNoise:
    """Numbers of torch's generator on a CPU, within 5e-7 of torch on x86 processors wherever it runs.

    Draws of fewer than 16 numbers behind one another are not those of torch, which keeps half of a pair.
    """

    def __init__(self, seed: int) -> None:
        self._engine = np.random.RandomState(seed % 2**32)  # seeds its Mersenne Twister as torch does

    def draw(self, shape: tuple[int, ...]) -> mx.array:
        """See :meth:`NoiseSource.draw`."""
        return mx.array(_torch_normals(self._engine, math.prod(shape)).reshape(shape))

    def skip(self, shape: tuple[int, ...], times: int) -> None:
        """See :meth:`NoiseSource.skip`."""
        for _ in range(times):
            _skip_normals(self._engine, math.prod(shape))

    def state(self) -> dict[str, mx.array]:
        """See :meth:`NoiseSource.state`: the engine's words, [624], and how many of them are used up, [1]."""
        engine = self._engine.get_state(legacy=False)["state"]
        return {"words": mx.array(engine["key"]), "used": mx.array([engine["pos"]], mx.uint32)}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See :meth:`NoiseSource.restore`."""
        if {name: array.size for name, array in state.items()} != {"words": 624, "used": 1}:
            raise ValueError(f"a state with {sorted(state)} cannot be one of torch's generator")
        engine = {"key": np.array(state["words"]), "pos": cast(int, state["used"].item())}
        self._engine.set_state({"bit_generator": "MT19937", "state": engine, "has_gauss": 0, "gauss": 0.0})


class MLXNoise:
    """Numbers of MLX's generator."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draws = 0

    def draw(self, shape: tuple[int, ...]) -> mx.array:
        """See :meth:`NoiseSource.draw`."""
        key = mx.random.key(self._seed)
        if self._draws:
            key = mx.random.split(key, self._draws + 1)[self._draws]
        self._draws += 1
        return mx.random.normal(shape, key=key)

    def skip(self, shape: tuple[int, ...], times: int) -> None:
        """See :meth:`NoiseSource.skip`."""
        self._draws += times

    def state(self) -> dict[str, mx.array]:
        """See :meth:`NoiseSource.state`: the number of draws, [1]."""
        return {"draws": mx.array([self._draws], mx.uint32)}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See :meth:`NoiseSource.restore`."""
        if [*state] != ["draws"] or state["draws"].size != 1:
            raise ValueError(f"a state with {sorted(state)} cannot be one of MLX's generator")
        self._draws = cast(int, state["draws"].item())


SOURCES: Mapping[NoiseKind, Callable[[int], NoiseSource]] = MappingProxyType(
    {"torch": TorchNoise, "mlx": MLXNoise}
)


def _torch_normals(engine: np.random.RandomState, count: int) -> npt.NDArray[np.float32]:
    """The next `count` numbers of torch.randn; small tensors take another path through torch.

    Source: PyTorch aten/src/ATen/native/cpu/DistributionTemplates.h, normal_kernel.
    """
    if count < GROUP:
        return _few_normals(engine, count)
    uniform = _uniform24(engine, count)
    normals = np.empty(count, np.float32)
    whole = count - count % GROUP
    normals[:whole] = _box_muller(uniform[:whole])
    if whole < count:  # a last group that is not full overlaps the one before it, with new numbers
        normals[-GROUP:] = _box_muller(_uniform24(engine, GROUP))
    return normals


def _skip_normals(engine: np.random.RandomState, count: int) -> None:
    """Use up what `count` numbers of torch.randn are made of."""
    if count < GROUP:
        _few_normals(engine, count)
    else:
        _draw_words(engine, count + (GROUP if count % GROUP else 0))


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
