"""What adapters do to one process's part of a transformer whose heads are shared out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_video.errors import AdapterError
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.lora.changes import Change, Delta, LowRank, Read
from mlx_video.weights.block_shares import BlockShare, TensorShare


def share_adapters(adapters: AdapterSet, share: BlockShare) -> AdapterSet:
    """The changes of a process's part of each parameter.

    Args:
        adapters: of the whole transformer.
        share: of the process.

    Raises:
        AdapterError: a change depends on the whole of a parameter.
    """
    changes = {
        name: tuple(_share_changes(of, share.of_parameter(name))) for name, of in adapters.changes.items()
    }
    return AdapterSet({name: of for name, of in changes.items() if of}, adapters.notices, adapters.widening)


def _share_changes(changes: tuple[Change, ...], share: TensorShare | None) -> Iterator[Change]:
    """Changes of a part; none where another process has what is changed."""
    if share is None:
        yield from changes
    elif share.part is not None:
        yield from (_share_change(one, share, share.part) for one in changes)


def _share_change(change: Change, share: TensorShare, part: range) -> Change:
    if change.magnitude is not None:
        raise AdapterError(
            f"{change.file.label}: has DoRA magnitudes, for which each weight must be whole. Merge it into "
            "the model when you convert (--lora), or share out tokens instead: --parallel context."
        )
    delta: Delta = change.delta
    if isinstance(delta, LowRank):
        shared: Delta = SharedLowRank(
            delta.down, delta.up, delta.rank, delta.scale, axis=share.axis, part=part
        )
    else:
        shared = SharedDelta(delta, share.axis, share.width, part)
    return replace(change, delta=shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLowRank(LowRank):
    """Some rows, or columns, of up · down · scale.

    Attributes:
        axis: 0 for rows, 1 for columns.
        part: which.
    """

    axis: int
    part: range

    def factors(self, read: Read) -> tuple[mx.array, mx.array]:
        """See :class:`LowRank`."""
        down, up = LowRank.factors(self, read)
        if self.axis == 0:
            return down, mx.contiguous(up[self.part.start : self.part.stop])
        return mx.contiguous(down[:, self.part.start : self.part.stop]), up


@dataclass(frozen=True, slots=True)
class SharedDelta:
    """Some rows, or columns, of a delta of any kind, of which the whole is computed.

    Attributes:
        whole: the delta.
        axis: 0 for rows, 1 for columns.
        width: of the whole along this axis.
        part: which.
    """

    whole: Delta
    axis: int
    width: int
    part: range

    @property
    def scale(self) -> float:
        """See :class:`Delta`."""
        return self.whole.scale

    @property
    def rank(self) -> int | None:
        """See :class:`Delta`."""
        return self.whole.rank

    @property
    def tensors(self) -> tuple[str, ...]:
        """See :class:`Delta`."""
        return self.whole.tensors

    def compute(self, read: Read) -> mx.array:
        """See :class:`Delta`."""
        delta = self.whole.compute(read)
        if self.axis == 0:
            return delta.reshape(self.width, -1)[self.part.start : self.part.stop]
        return delta.reshape(-1, self.width)[:, self.part.start : self.part.stop]
