"""What adapters do to a weight, in float32: the deltas of every kind, and how they are added."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.request.adapters import StepStrengths

Read = Callable[[str], mx.array]


class Delta(Protocol):
    """A change of a weight, held as few tensors of a file.

    Attributes:
        scale: alpha over the rank; 1 where there is no such thing.
        rank: None where the delta has none.
    """

    @property
    def scale(self) -> float:
        """Alpha over the rank, or what stands for it."""

    @property
    def rank(self) -> int | None:
        """Of the factors."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Their names in the file."""

    def compute(self, read: Read) -> mx.array:
        """The delta, scaled: as many float32 numbers as the weight has, row after row."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """up · down · scale.

    Attributes:
        down: name of [r, in], or of a convolution's [r, in, t, h, w].
        up: name of [out, r], or of [out, r, 1, 1, 1].

    Source: arXiv 2106.09685.
    """

    down: str
    up: str
    rank: int
    scale: float

    @property
    def tensors(self) -> tuple[str, ...]:
        """Their names in the file."""
        return (self.down, self.up)

    def factors(self, read: Read) -> tuple[mx.array, mx.array]:
        """The matrices down [r, in] and up [out, r], as stored."""
        return read(self.down).reshape(self.rank, -1), read(self.up).reshape(-1, self.rank)

    def compute(self, read: Read) -> mx.array:
        """The delta [out, in]."""
        down, up = self.factors(read)
        return (up.astype(mx.float32) @ down.astype(mx.float32)) * self.scale


@dataclass(frozen=True, slots=True)
class Hadamard:
    """LoHa: the elementwise product of two low-rank matrices, times scale.

    Attributes:
        factors: names of w1_a [out, r], w1_b [r, in], w2_a and w2_b.

    Source: LyCORIS lycoris/modules/loha.py, LohaModule.
    """

    factors: tuple[str, str, str, str]
    rank: int
    scale: float

    @property
    def tensors(self) -> tuple[str, ...]:
        """Their names in the file."""
        return self.factors

    def compute(self, read: Read) -> mx.array:
        """The delta [out, in]."""
        return (_product(self.factors[:2], read) * _product(self.factors[2:], read)) * self.scale


@dataclass(frozen=True, slots=True)
class Kronecker:
    """LoKr: the Kronecker product of two matrices, times scale.

    Attributes:
        first, second: names of a matrix, or of the two whose product it is.
        rank: of the factored side; None where both are whole.

    Source: LyCORIS lycoris/modules/lokr.py, LokrModule.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    rank: int | None
    scale: float

    @property
    def tensors(self) -> tuple[str, ...]:
        """Their names in the file."""
        return (*self.first, *self.second)

    def compute(self, read: Read) -> mx.array:
        """The delta [out, in]."""
        first, second = _product(self.first, read), _product(self.second, read)
        blocks = first[:, None, :, None] * second[None, :, None, :]
        return blocks.reshape(first.shape[0] * second.shape[0], -1) * self.scale


@dataclass(frozen=True, slots=True)
class Full:
    """A delta, or a value, stored whole.

    Attributes:
        name: of a tensor with as many elements as the parameter.
    """

    name: str
    scale: float = 1.0
    rank: int | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Their names in the file."""
        return (self.name,)

    def compute(self, read: Read) -> mx.array:
        """The tensor in its own shape."""
        return read(self.name).astype(mx.float32) * self.scale


def _product(names: tuple[str, ...], read: Read) -> mx.array:
    matrices = [read(name) for name in names]
    flat = [array.reshape(array.shape[0], -1).astype(mx.float32) for array in matrices]
    return flat[0] @ flat[1] if len(flat) == 2 else flat[0]


@dataclass(frozen=True, slots=True)
class Change:
    """What one file does to one parameter.

    Attributes:
        file: where the tensors are.
        delta: the change at strength 1.
        strength: the user's.
        magnitude: DoRA's, the name of one length for each row, or with shape [1, in] for each column: the
            changed weight is brought to these lengths. None without.
        replaces: `delta` is the new value instead of a difference.
        by_step: strengths that change from step to step; None for the same in all.
    """

    file: AdapterFile
    delta: Delta
    strength: float
    magnitude: str | None = None
    replaces: bool = False
    by_step: StepStrengths | None = None

    @property
    def identity(self) -> Hashable:
        """What no other change has: its file, its tensors there, and how they are applied."""
        return self.file.identity, self.delta, self.strength, self.magnitude, self.replaces, self.by_step

    def strength_at(self, index: int, count: int) -> float:
        """Strength in step `index` of `count`."""
        return self.strength if self.by_step is None else self.by_step.at(index, count)

    @property
    def is_low_rank(self) -> bool:
        """Whether it is a plain product of two factors, which can run beside the layer."""
        return isinstance(self.delta, LowRank) and self.magnitude is None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors it reads."""
        return (*self.delta.tensors, *((self.magnitude,) if self.magnitude else ()))

    def apply(self, weight: mx.array, *, keep: bool = False) -> mx.array:
        """Change a weight.

        Args:
            weight: float32, any shape.
            keep: hold the file's tensors in memory.

        Returns:
            Shape of `weight`, float32.
        """

        def read(name: str) -> mx.array:
            return self.file.read(name, keep=keep)

        delta = self.delta.compute(read)
        if 0 < delta.size < weight.size:
            # Of a patch embedding that another adapter made wider: the first columns are those it knows.
            own = delta.size // weight.shape[0]
            changed = self._change(weight[:, :own], delta, read)
            return mx.concatenate([changed, weight[:, own:]], axis=1)
        return self._change(weight, delta, read)

    def _change(self, weight: mx.array, delta: mx.array, read: Read) -> mx.array:
        delta = delta.reshape(weight.shape)
        if self.replaces:
            return weight + self.strength * (delta - weight)
        if self.magnitude is None:
            return weight + self.strength * delta
        changed = _with_lengths(weight + delta, read(self.magnitude).astype(mx.float32))
        return weight + self.strength * (changed - weight)


def is_column_magnitude(shape: tuple[int, ...]) -> bool:
    """Whether DoRA magnitudes of this shape belong to a weight's columns: [1, in]."""
    return len(shape) == 2 and shape[0] == 1 and shape[1] != 1


def _with_lengths(matrix: mx.array, lengths: mx.array) -> mx.array:
    """A matrix whose rows, or columns, are brought to lengths.

    Source: arXiv 2402.09353; peft src/peft/tuners/lora/dora.py, DoraLinearLayer, for rows.
    """
    axis = 0 if is_column_magnitude(lengths.shape) else 1
    norms = mx.sqrt((matrix * matrix).sum(axis=axis, keepdims=True))
    return matrix * (lengths.reshape(norms.shape) / norms)
