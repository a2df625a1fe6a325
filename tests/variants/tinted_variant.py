"""A model that no version knows: a text-to-video transformer with a layer more, all of it in this file."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import SamplingDefaults, TransformerConfig
from mlx_video.models.block_context import TimeFeatures
from mlx_video.models.matmul import project
from mlx_video.models.peak import Peak
from mlx_video.models.token_layout import TokenLayout
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.transformer_memory import ForwardSize, forward_peak
from mlx_video.variants.variant import Traits, Variant
from mlx_video.weights.network import TransformerNetwork
from mlx_video.weights.quantize import is_quantized_layer
from mlx_video.weights.rules import Rule, Shape

TABLE_BYTES = 1 << 20


class TintedTransformer(WanTransformer):
    """Adds a projection of the time embedding to the modulation of every block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.tint_0 = nn.Linear(config.dim, 6 * config.dim)

    def embed_time(self, timestep: float, layout: TokenLayout) -> TimeFeatures:
        """See WanTransformer."""
        time = super().embed_time(timestep, layout)
        tint = project(self.tint_0, nn.silu(time.embedding), mx.float32)
        return replace(time, modulation=time.modulation + tint.reshape(time.modulation.shape))


def tint_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """What the file holds besides the plain transformer."""
    return {"tint.0.weight": (6 * config.dim, config.dim), "tint.0.bias": (6 * config.dim,)}


def tinted_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """The plain forward beside a table that stays."""
    return forward_peak(size, waits_for_blocks=waits_for_blocks).beside(TABLE_BYTES)


TINTED = Variant(
    name="tinted-t2v",
    title="Tinted T2V",
    model_version="2.1",
    model_type="t2v",
    traits=Traits((16, 16), ("tint.",)),
    network=TransformerNetwork(
        build=TintedTransformer,
        extra_tensors=tint_tensors,
        extra_rules=(Rule("tint.0.*", "tint_0.*"),),
        extra_diffusers_rules=(Rule("condition_embedder.tinter.*", "tint.0.*"),),
        is_quantized=lambda path: is_quantized_layer(path) or path == "tint_0",
        peak=tinted_peak,
    ),
    sampling=SamplingDefaults(steps=3, num_frames=5, width=32, height=32),
)
