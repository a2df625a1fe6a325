"""All adapters of one transformer: which parameter they change, and how."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

import mlx.core as mx

from mlx_video.config import TransformerConfig
from mlx_video.lora.changes import Change, LowRank
from mlx_video.lora.damage import explain_non_finite
from mlx_video.lora.widening import PATCH_WEIGHT, Widening, widen_columns
from mlx_video.models.unmerged_adapter import UnmergedAdapter
from mlx_video.weights.stream import is_finite

Factors = tuple[mx.array, mx.array, mx.array]


class AdapterSet:
    """Changes that the adapters of one transformer make. False when they make none, nor widen its input.

    Tensors are read when a layer is changed. Those of a layer that is changed again and again, because it is
    streamed, stay in memory after the first time: :attr:`nbytes` in all.

    Args:
        changes: parameter → changes in the order of their application.
        notices: what the user should know.
        widening: of the transformer's input; None where it stays as it is.

    Attributes:
        changes, notices, widening: as given.
    """

    def __init__(
        self,
        changes: Mapping[str, Sequence[Change]],
        notices: Sequence[str] = (),
        widening: Widening | None = None,
    ) -> None:
        self.widening = widening
        self.changes = {name: tuple(of_name) for name, of_name in changes.items()}
        self.notices = tuple(notices)
        self._factors: dict[str, tuple[mx.array, mx.array]] = {}
        self._own = object()
        self._step = 0, 1
        self._beside: dict[str, UnmergedAdapter] = {}

    def __bool__(self) -> bool:
        return bool(self.changes or self.widening)

    @property
    def varies(self) -> bool:
        """Whether some strength changes from step to step."""
        return any(change.by_step for of_name in self.changes.values() for change in of_name)

    @property
    def targets(self) -> frozenset[str]:
        """Names of the parameters that change."""
        return frozenset(self.changes)

    @property
    def identity(self) -> Hashable:
        """What no set has that changes a transformer in another way; a set that varies is like no other."""
        if self.varies:
            return self._own
        changes = ((name, tuple(one.identity for one in of)) for name, of in self.changes.items())
        return self.widening, *changes

    def with_widening(self, widening: Widening) -> AdapterSet:
        """The same changes of a transformer whose input is widened, by these adapters or by others."""
        return AdapterSet(self.changes, self.notices, widening)

    def stored_sizes(self, config: TransformerConfig) -> TransformerConfig:
        """Sizes of the transformer in its file.

        Args:
            config: of the transformer with these adapters.
        """
        return self.widening.narrow(config) if self.widening else config

    def widen(self, name: str, matrix: mx.array) -> mx.array:
        """What is to be changed, or a change of it, as wide as the transformer takes it.

        Args:
            name: of the parameter.
            matrix: [rows, columns].
        """
        if self.widening is None or name != PATCH_WEIGHT:
            return matrix
        return widen_columns(matrix, self.widening.columns)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in use, as stored."""
        used = {
            (change.file, name)
            for of_name in self.changes.values()
            for change in of_name
            for name in change.tensors
        }
        return sum(file.infos[name].nbytes for file, name in used)

    def factors(self, name: str, *, keep: bool = False) -> Factors:
        """The low-rank changes of one weight as one pair of matrices.

        Args:
            name: a weight whose changes are all low-rank.
            keep: hold them in memory for the next time.

        Returns:
            down [R, in] and up [out, R] in the type of the files, or in float32 where these differ; scale
            [R], float32. R is the sum of the ranks.

        Raises:
            AdapterError: a number in them is not finite.
        """
        factors = self._factors.get(name) or _join(name, self.changes[name], partial(self.widen, name))
        if keep:
            self._factors[name] = factors
        return (*factors, self._scale(name))

    def run_beside(self, name: str, *, keep: bool = False) -> UnmergedAdapter:
        """The low-rank changes of one weight, to run beside its layer; arguments as for :meth:`factors`."""
        self._beside[name] = UnmergedAdapter(*self.factors(name, keep=keep))
        return self._beside[name]

    def go_to_step(self, index: int, count: int) -> None:
        """Give everything that runs beside a layer its strength in step `index` of `count`."""
        self._step = index, count
        for name, adapter in self._beside.items():
            adapter.scale = self._scale(name)

    def _scale(self, name: str) -> mx.array:
        """Scales of the joined ranks in the present step, [R], float32."""
        scales: list[float] = []
        for change in self.changes[name]:
            assert isinstance(change.delta, LowRank)
            scales += [change.strength_at(*self._step) * change.delta.scale] * change.delta.rank
        return mx.array(scales, mx.float32)


def _join(
    name: str, changes: Sequence[Change], widen: Callable[[mx.array], mx.array]
) -> tuple[mx.array, mx.array]:
    downs, ups = [], []
    for change in changes:
        assert isinstance(change.delta, LowRank)
        down, up = change.delta.factors(change.file.read)
        downs.append(widen(down))
        ups.append(up)
    factors = _concatenate(downs, 0), _concatenate(ups, 1)
    mx.eval(*factors)
    if not all(map(is_finite, factors)):
        raise explain_non_finite(name, changes, factors[0].dtype)
    return factors


def _concatenate(arrays: Sequence[mx.array], axis: int) -> mx.array:
    # One array is taken as it is: a copy would double the memory of most adapters for a moment.
    return arrays[0] if len(arrays) == 1 else mx.concatenate(list(arrays), axis=axis)
