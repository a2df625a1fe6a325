"""A component that no version knows: a small decoder for previews, all of it in this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.layouts.components import Component, Marks
from mlx_video.models.peak import WIDE, Peak
from mlx_video.weights.component_networks import ComponentNetwork, Workload
from mlx_video.weights.rules import Rule, Shape
from mlx_video.weights.spellings import KEEP, Spelling


@dataclass(frozen=True)
class PreviewSizes:
    """Channels of the latents, and between the layers."""

    z_dim: int
    width: int


class PreviewDecoder(nn.Module):
    """Latents → a pixel for each cell."""

    def __init__(self, sizes: PreviewSizes) -> None:
        super().__init__()
        self.preview_in = nn.Linear(sizes.z_dim, sizes.width)
        self.preview_out = nn.Linear(sizes.width, 3)

    def __call__(self, latents: mx.array) -> mx.array:
        """[C, T, H, W] → [T, H, W, 3]."""
        return self.preview_out(nn.silu(self.preview_in(latents.transpose(1, 2, 3, 0))))


def read_sizes(infos: Mapping[str, TensorInfo], *, label: str) -> PreviewSizes:
    """Sizes from the first layer, in either spelling."""
    for name in ("preview.in.weight", "preview_in.weight"):
        if name in infos:
            width, z_dim = infos[name].shape
            return PreviewSizes(z_dim, width)
    raise CheckpointError(f"{label}: preview.in.weight is missing. Fetch the file again.")


def preview_tensors(sizes: PreviewSizes) -> dict[str, Shape]:
    """As the file holds them."""
    shapes: dict[str, Shape] = {"preview.in.weight": (sizes.width, sizes.z_dim)}
    shapes |= {"preview.in.bias": (sizes.width,)}
    return shapes | {"preview.out.weight": (3, sizes.width), "preview.out.bias": (3,)}


def preview_peak(sizes: PreviewSizes, work: Workload) -> Peak:
    """Hidden channels of all cells, before and after the activation."""
    _, frames, height, width = work.latent_shape
    nbytes = 2 * frames * height * width * sizes.width * WIDE
    return Peak(nbytes, nbytes)


ROW = Component(
    name="preview_decoder",
    file_name="preview_decoder.safetensors",
    original_files=("preview.safetensors",),
    folder="preview_decoder",
    use="shows previews with it",
    marks=(
        Marks("mlx", ("preview_in.weight", "preview_out.weight")),
        Marks("original", ("preview.in.weight", "preview.out.weight")),
    ),
)
NETWORK = ComponentNetwork(
    spellings=(Spelling(("preview.in.weight",), lambda _: KEEP),),
    read_sizes=read_sizes,
    read_converted_sizes=read_sizes,
    tensors=preview_tensors,
    rules=lambda sizes: (Rule("preview.in.*", "preview_in.*"), Rule("preview.out.*", "preview_out.*")),
    build=PreviewDecoder,
    describe=lambda sizes: f"preview decoder of width {sizes.width}",
    stage="decode",
    peak=preview_peak,
)
