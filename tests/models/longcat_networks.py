"""A tiny transformer of LongCat-Video, under its authors' names and ours."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import BlockContext, CrossAttentionCache, PromptTokens
from mlx_video.models.longcat.transformer import LongCatTransformer
from mlx_video.models.token_layout import TokenLayout
from mlx_video.weights.names.longcat_names import AUTHORS_RULES
from mlx_video.weights.names.transformer_names import WAN_RULES
from mlx_video.weights.rules import apply_rules
from tests.models.networks import at, load

# The feed-forward's width is 8/3 of the tokens', rounded up to a multiple of 256.
LONGCAT = TransformerConfig(
    dim=96,
    ffn_dim=256,
    num_heads=4,
    num_layers=3,
    text_dim=40,
    freq_dim=64,
    time_dim=32,
    model_type="longcat",
)


def load_longcat(
    arrays: Mapping[str, np.ndarray], config: TransformerConfig = LONGCAT, dtype: mx.Dtype = mx.float32
) -> LongCatTransformer:
    """Our transformer with weights under the authors' names."""
    respelt = {str(apply_rules(name, AUTHORS_RULES)[0]): values for name, values in arrays.items()}
    return load(LongCatTransformer(config), respelt, WAN_RULES, dtype)


def blocks_of(
    transformer: LongCatTransformer, layout: TokenLayout, text: mx.array, timestep: float
) -> BlockContext:
    """What the blocks see of a video, of which the text is as wide as the tokens already."""
    time, rotary = transformer.embed_time(timestep, layout), transformer.rotary_table(layout)
    return BlockContext(at(timestep), time, layout, rotary, PromptTokens(CrossAttentionCache(text)))
