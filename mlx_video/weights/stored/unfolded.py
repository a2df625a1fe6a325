"""Kernels of convolutions that a tool folded from five axes to four, in their own shapes again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_file import cut_rows
from mlx_video.formats.tensor_source import TensorInfo, TensorSource, TensorView
from mlx_video.weights.rules import Shape

Cells = tuple[int, int, int]
Kernels = Mapping[str, Cells]

# Official name of a layer, or its end → cells of the kernel, time first.
TRANSFORMER_KERNELS: Kernels = MappingProxyType(
    {"patch_embedding": (1, 2, 2), "pose_patch_embedding": (1, 2, 2)}
)
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
    }
)


def unfold(source: TensorSource, kernels: Kernels) -> TensorSource:
    """The source itself, or a view in which folded kernels have all their axes.

    GGUF has four axes in many tools, so that these write [out, in, t, h, w] as [out·in, t, h, w], and do not
    say so. The bias tells the channels out. What is folded in another way keeps its shape, and is refused
    later.

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
        if cells is not None and info.shape[1:] == cells and (channels := _read_channels(source, info)):
            shapes[name] = (*channels, *cells)
    return UnfoldedTensors(source, shapes) if shapes else source


def _find_cells(name: str, kernels: Kernels) -> Cells | None:
    layer = name.removesuffix(".weight")
    if layer == name:
        return None
    found = (
        cells for end, cells in kernels.items() if layer == end or (end[0] == "." and layer.endswith(end))
    )
    return next(found, None)


def _read_channels(source: TensorSource, info: TensorInfo) -> tuple[int, int] | None:
    """Channels out and in of a folded kernel; None if the bias contradicts it."""
    bias = source.infos.get(f"{info.name.removesuffix('weight')}bias")
    if bias is None:
        raise CheckpointError(
            f"{source.label}: {info.title} is {list(info.shape)}, folded to four axes, and the bias that "
            "tells its channels is missing. Fetch the file again, or use one that is not GGUF."
        )
    out = math.prod(bias.shape)
    into, rest = divmod(info.shape[0], out) if out else (0, 1)
    return (out, into) if into and not rest else None


class UnfoldedTensors(TensorView):
    """A `TensorSource` some of whose tensors have their first axis cut in two.

    Args:
        source: closed with this one.
        shapes: name → shape here, of one axis more.
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
        """Read a tensor, or rows of it; no more than these rows are read."""
        if name not in self._shapes:
            return self._source.read(name, rows)
        shape, first = cut_rows(self.infos[name], rows)
        into = shape[1]
        return self._source.read(name, slice(first * into, (first + shape[0]) * into)).reshape(shape)
