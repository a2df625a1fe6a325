"""Kernels of convolutions that a tool folded to fewer axes, in their own shapes again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx

from mlx_video.checkpoint.tensor_file import cut_rows
from mlx_video.checkpoint.tensor_source import TensorInfo, TensorSource, TensorView
from mlx_video.errors import CheckpointError
from mlx_video.weights.rules import Shape

Cells = tuple[int, ...]
Kernels = Mapping[str, Cells]

# Official name, or what stands behind its last block → cells of the kernel; of three axes the first is time.
TRANSFORMER_KERNELS: Kernels = MappingProxyType({"patch_embedding": (1, 2, 2)})
VAE_KERNELS: Kernels = MappingProxyType(
    {
        "conv1": (1, 1, 1),
        "conv2": (1, 1, 1),
        "encoder.conv1": (3, 3, 3),
        "decoder.conv1": (3, 3, 3),
        ".residual.2": (3, 3, 3),
        ".residual.6": (3, 3, 3),
        ".head.2": (3, 3, 3),
        ".time_conv": (3, 1, 1),
        ".shortcut": (1, 1, 1),
        ".resample.1": (3, 3),
        ".to_qkv": (1, 1),
        ".proj": (1, 1),
    }
)


def unfold(source: TensorSource, kernels: Kernels) -> TensorSource:
    """The source itself, or a view in which folded kernels have all their axes.

    GGUF has four axes in many tools, so that these write [out, in, t, h, w] as [out·in, t, h, w], and do not
    say so. The bias tells the channels out, the layer's place its cells, and the rest is channels in. Other
    merges of neighbouring axes are undone as well; what is no merge keeps its shape and is refused later.

    Args:
        source: tensors under the official names.
        kernels: the layers that can be folded.

    Raises:
        CheckpointError: a folded kernel lacks the bias that tells its shape.

    Source: leejet/stable-diffusion.cpp, which reads and writes such files.
    """
    shapes = {}
    for name, info in source.infos.items():
        cells = _find_cells(name, kernels)
        if cells and len(info.shape) != len(cells) + 2 and (true := _true_shape(source, info, cells)):
            shapes[name] = true
    return UnfoldedTensors(source, shapes) if shapes else source


def _find_cells(name: str, kernels: Kernels) -> Cells | None:
    layer = name.removesuffix(".weight")
    if layer == name:
        return None
    ends = (
        cells for end, cells in kernels.items() if layer == end or (end[0] == "." and layer.endswith(end))
    )
    return next(ends, None)


def _true_shape(source: TensorSource, info: TensorInfo, cells: Cells) -> Shape | None:
    """Channels out and in, and cells of a folded kernel; None if it is none of this place."""
    bias = source.infos.get(f"{info.name.removesuffix('weight')}bias")
    if bias is None:
        raise CheckpointError(
            f"{source.label}: {info.title} is {list(info.shape)}, folded to {len(info.shape)} axes, and the "
            "bias that tells its channels is missing. Fetch the file again, or use one that is not GGUF."
        )
    out = math.prod(bias.shape)
    into, rest = divmod(math.prod(info.shape), out * math.prod(cells)) if out else (0, 1)
    true = (out, into, *cells)
    return true if into and not rest and _is_fold(info.shape, true) else None


def _is_fold(folded: Shape, shape: Shape) -> bool:
    """Whether each axis of one shape is neighbouring axes of the other; those of length one are free."""
    lengths = iter(length for length in shape if length != 1)
    for merged in (length for length in folded if length != 1):
        product = 1
        while product < merged:
            product *= next(lengths, merged + 1)
        if product != merged:
            return False
    return next(lengths, None) is None


class UnfoldedTensors(TensorView):
    """A `TensorSource` some of whose tensors have more axes than in another source, and the same numbers.

    Args:
        source: closed with this one.
        shapes: name → shape here.
    """

    def __init__(self, source: TensorSource, shapes: Mapping[str, Shape]) -> None:
        super().__init__(source)
        self._source = source
        self._shapes = shapes
        self.infos: Mapping[str, TensorInfo] = {
            name: replace(info, shape=shapes[name]) if name in shapes else info
            for name, info in source.infos.items()
        }

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._source.file_of(name)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or rows of it; of a folded one no more than these rows, if rows of it hold them."""
        if rows is None or name not in self._shapes:
            array = self._source.read(name, rows)
            return array.reshape(self._shapes[name]) if name in self._shapes else array
        shape, first = cut_rows(self.infos[name], rows)
        stored, row = self._source.infos[name].shape, math.prod(shape[1:])
        if row % math.prod(stored[1:]):
            return self._source.read(name).reshape(self._shapes[name])[rows]
        share = row // math.prod(stored[1:])
        return self._source.read(name, slice(first * share, (first + shape[0]) * share)).reshape(shape)
