"""Weights stored in eight bits with scales, read as the numbers they stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.errors import CheckpointError
from mlx_video.formats.float8 import FLOAT8_DTYPES
from mlx_video.formats.tensor_source import TensorInfo, TensorSource, TensorView
from mlx_video.weights.stored.scale_conventions import Scaled, find_scaled, is_beside_weights

_SAMPLES, _SAMPLED_ROWS = 3, 64
# Attention weights of a transformer spread by 0.005 to 0.2; codes whose scale is lost, by tens. Text encoders
# are not judged: the published one's weights are of any size.
_JUDGED = re.compile(r"(.*\.)?(self_attn|cross_attn|attn1|attn2)\.(to_)?[qkv]\.weight")
_USUAL_SPREAD, _LARGEST_SPREAD = 0.2, 2.0
# Every layer of a transformer's blocks; and how much more than all others of its kind a weight may spread.
_LINEAR = re.compile(
    r"(.*\.)?((self_attn|cross_attn|attn1|attn2)\.(to_)?([qkvo]|out\.0)|ffn\.(0|2|net\.0\.proj|net\.2))\.weight"
)
_LARGEST_RATIO = 8


def dequantize(source: TensorSource) -> TensorSource:
    """The source itself if it holds no scaled weights, else a view in which they are float32 numbers.

    Args:
        source: tensors as stored; the caller closes it, or the view.

    Raises:
        CheckpointError: as :class:`DequantizedTensors`.
    """
    descaled = DequantizedTensors(source)
    return descaled if descaled.infos.keys() != source.infos.keys() else source


def report_plain_float8(sources: Iterable[TensorSource]) -> Iterator[str]:
    """Say so where weights are 8-bit floats without scales."""
    for source in sources:
        plain = [info for info in source.infos.values() if info.dtype in FLOAT8_DTYPES]
        if plain:
            yield (
                f"{source.label}: {len(plain)} tensors are {plain[0].dtype} without scales, a plain cast to "
                "eight bits, read as they are (scale 1): precision is lost compared with the bf16 file."
            )


class DequantizedTensors(TensorView):
    """A `TensorSource` that multiplies weights by their scales, and has no tensors for these.

    Args:
        source: tensors as stored; closed with this one.

    Raises:
        CheckpointError: a scale is missing, misshapen, zero, no number, or belongs to no weight; the weights
            are in a format that is not read; or they are no weights once multiplied.
    """

    def __init__(self, source: TensorSource) -> None:
        super().__init__(source)
        self._source = source
        self._scaled = find_scaled(source)
        names = {scaled.codes: name for name, scaled in self._scaled.items()}
        self.infos: Mapping[str, TensorInfo] = {
            names.get(stored, stored): _describe(names.get(stored), info)
            for stored, info in source.infos.items()
            if stored in names or not is_beside_weights(stored)
        }
        for scaled in self._scaled.values():  # here, since reading must leave all to be evaluated later
            _check_scale(source, scaled.scale)
        _check_spread(self, self._scaled)
        _check_plain(self, self._scaled)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        scaled = self._scaled.get(name)
        return self._source.file_of(scaled.codes if scaled else name)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or rows of it; weights that have a scale as float32, multiplied by it.

        Raises:
            KeyError: there is no tensor of this name.
            ValueError: `rows` has a step, or the tensor is a scalar.
        """
        if name not in self.infos:
            raise KeyError(f"{self.label} has no tensor {name!r}")
        scaled = self._scaled.get(name)
        if scaled is None:
            return self._source.read(name, rows)
        codes = self._source.read(scaled.codes, rows).astype(mx.float32)
        scale = self._read_scale(scaled, rows)
        if scale.ndim == 3 and scale.size != codes.shape[0]:  # a block of each row has its own
            return (codes.reshape(*scale.shape[:2], -1) * scale).reshape(codes.shape)
        is_row = math.prod(self._source.infos[scaled.scale].shape) > 1
        return codes * scale.reshape((codes.shape[0], *(1,) * (codes.ndim - 1)) if is_row else ())

    def _read_scale(self, scaled: Scaled, rows: slice | None) -> mx.array:
        """Float32; of a scale for each row, only those of the rows."""
        is_one = math.prod(self._source.infos[scaled.scale].shape) == 1
        return self._source.read(scaled.scale, None if is_one else rows).astype(mx.float32)


def _describe(weight: str | None, info: TensorInfo) -> TensorInfo:
    return info if weight is None else TensorInfo(weight, info.shape, "F32")


def _check_scale(source: TensorSource, name: str) -> None:
    numbers = np.array(source.read(name).astype(mx.float32), copy=False)
    if not np.isfinite(numbers).all() or (numbers.size == 1 and not numbers.all()):
        raise CheckpointError(
            f"{source.file_of(name).name}: {name} is zero, NaN or infinite: the file is damaged. "
            "Download it again."
        )


def _check_spread(view: DequantizedTensors, weights: Iterable[str]) -> None:
    """Refuse scales that do not bring codes down to weights: a model would run and make noise."""
    for name in _sample(weights):
        spread = _spread(view, name)
        if not spread < _LARGEST_SPREAD:
            raise CheckpointError(
                f"{view.file_of(name).name}: {name} spreads by {spread:.3g} once it is scaled, weights by "
                "0.005 to 0.2: its scale is not the one it was stored with. Download the file again."
            )


def _sample(weights: Iterable[str]) -> list[str]:
    """A few of the weights whose spread is known."""
    judged = [name for name in weights if _JUDGED.fullmatch(name)]
    return judged[:: max(1, len(judged) // _SAMPLES)][:_SAMPLES]


def _check_plain(view: DequantizedTensors, scaled: Mapping[str, Scaled]) -> None:
    """Refuse codes that lost their scale, some of a file's or all: read as they are they are no weights."""
    plain = [name for name, info in view.infos.items() if info.dtype in FLOAT8_DTYPES and len(info.shape) > 1]
    if scaled:
        _check_plain_beside(view, plain, scaled)
        return
    for name in _sample(plain):
        spread = _spread(view, name)
        if not spread < _LARGEST_SPREAD:
            raise CheckpointError(
                f"{view.file_of(name).name}: {name} is float8 without a scale, as all others, and spreads by "
                f"{spread:.3g}, weights by 0.005 to 0.2: the file lost its scales. Download it again."
            )


def _check_plain_beside(view: DequantizedTensors, plain: Iterable[str], scaled: Collection[str]) -> None:
    """Refuse codes without a scale that spread more than the weights of their kind that have one."""
    kinds: dict[str, list[str]] = {}
    for name in scaled:
        kinds.setdefault(_kind_of(name), []).append(name)
    for name in plain:
        usual = max((_spread(view, peer) for peer in kinds.get(_kind_of(name), ())), default=None)
        spread = _spread(view, name)
        if not spread <= _largest_spread(name, usual):
            raise CheckpointError(
                f"{view.file_of(name).name}: {name} is float8 but has no scale, while {len(scaled)} others "
                f"do, and spreads by {spread:.3g}, weights of its kind by {usual or _USUAL_SPREAD:.2g}: the "
                "scale is lost, the file damaged. Download it again."
            )


def _largest_spread(name: str, usual: float | None) -> float:
    """The most by which a weight spreads that stands for itself.

    Args:
        name: of the weight.
        usual: the most by which others of its kind spread; None where there are none.
    """
    limits = [] if usual is None else [_LARGEST_RATIO * usual]
    limits += [_LARGEST_SPREAD] if _LINEAR.fullmatch(name) else []
    return min(limits, default=math.inf)


def _kind_of(name: str) -> str:
    """A layer's name without the number of its block."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", name, count=1)


def _spread(view: DequantizedTensors, name: str) -> float:
    return float(np.std(np.array(view.read(name, slice(0, _SAMPLED_ROWS)))))
