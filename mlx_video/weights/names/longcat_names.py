"""Tensors of LongCat-Video's transformer: Wan's names for what both have, and how its authors spell all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mlx_video.config import TransformerConfig
from mlx_video.weights.names.transformer_names import linear_tensors
from mlx_video.weights.rules import Rule, Shape

AUTHORS_ANCHORS = ("x_embedder.proj.weight", "y_embedder.y_proj.0.weight")
TIME_ANCHOR = "time_embedding.2.weight"
HEAD_ANCHOR = "blocks.0.self_attn.norm_q.weight"  # as wide as one head, where Wan's is as wide as all
# One layer that makes queries, keys and values, where Wan has three.
FUSED_PART = "blocks.0.self_attn.qkv."

# From the authors' names to ours; layouts are the same.
# Source: meituan-longcat/LongCat-Video longcat_video/modules/longcat_video_dit.py.
AUTHORS_RULES = (
    Rule("x_embedder.proj.*", "patch_embedding.*"),
    Rule("y_embedder.y_proj.*", "text_embedding.*"),
    Rule("t_embedder.mlp.*", "time_embedding.*"),
    Rule("blocks.N.adaLN_modulation.1.*", "blocks.N.time_projection.*"),
    Rule("blocks.N.attn.qkv.*", "blocks.N.self_attn.qkv.*"),
    Rule("blocks.N.attn.proj.*", "blocks.N.self_attn.o.*"),
    Rule("blocks.N.attn.q_norm.*", "blocks.N.self_attn.norm_q.*"),
    Rule("blocks.N.attn.k_norm.*", "blocks.N.self_attn.norm_k.*"),
    Rule("blocks.N.pre_crs_attn_norm.*", "blocks.N.norm3.*"),
    Rule("blocks.N.cross_attn.q_linear.*", "blocks.N.cross_attn.q.*"),
    Rule("blocks.N.cross_attn.kv_linear.*", "blocks.N.cross_attn.kv.*"),
    Rule("blocks.N.cross_attn.proj.*", "blocks.N.cross_attn.o.*"),
    Rule("blocks.N.cross_attn.q_norm.*", "blocks.N.cross_attn.norm_q.*"),
    Rule("blocks.N.cross_attn.k_norm.*", "blocks.N.cross_attn.norm_k.*"),
    Rule("blocks.N.ffn.w1.*", "blocks.N.ffn.0.*"),
    Rule("blocks.N.ffn.w3.*", "blocks.N.ffn.gate.*"),
    Rule("blocks.N.ffn.w2.*", "blocks.N.ffn.2.*"),
    Rule("final_layer.adaLN_modulation.1.*", "head.time_projection.*"),
    Rule("final_layer.linear.*", "head.head.*"),
    Rule("*", "*"),
)

_QUANTIZED_LAYER = re.compile(r"blocks\.\d+\.(self_attn\.(qkv|o)|cross_attn\.(q|kv|o)|ffn\.(fc1|gate|fc2))")


def is_quantized_longcat_layer(path: str) -> bool:
    """Whether a layer is changed when the model is quantized: those of attention and feed-forward are."""
    return _QUANTIZED_LAYER.fullmatch(path) is not None


def read_longcat_sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Sizes that Wan's transformers do not have, from tensors under our names."""
    time, head = shapes.get(TIME_ANCHOR, ()), shapes.get(HEAD_ANCHOR, ())
    dim = shapes["patch_embedding.weight"][0]
    heads = {"num_heads": dim // head[0]} if head and head[0] else {}
    return {"time_dim": time[0] if time else None, **heads}


def longcat_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor, as :data:`AUTHORS_RULES` respell them."""
    assert config.time_dim is not None
    dim, time_dim = config.dim, config.time_dim
    tensors: dict[str, Shape] = {
        "patch_embedding.weight": (dim, config.in_dim, *config.patch_size),
        "patch_embedding.bias": (dim,),
        **linear_tensors("text_embedding.0", dim, config.text_dim),
        **linear_tensors("text_embedding.2", dim, dim),
        **linear_tensors("time_embedding.0", time_dim, config.freq_dim),
        **linear_tensors("time_embedding.2", time_dim, time_dim),
    }
    for index in range(config.num_layers):
        block = _block_tensors(config, time_dim)
        tensors |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    patch_rows = config.out_dim * math.prod(config.patch_size)
    return (
        tensors
        | linear_tensors("head.time_projection", 2 * dim, time_dim)
        | linear_tensors("head.head", patch_rows, dim)
    )


def _block_tensors(config: TransformerConfig, time_dim: int) -> dict[str, Shape]:
    dim, ffn_dim, head_dim = config.dim, config.ffn_dim, config.head_dim
    return {
        **linear_tensors("time_projection", 6 * dim, time_dim),
        **linear_tensors("self_attn.qkv", 3 * dim, dim),
        **linear_tensors("self_attn.o", dim, dim),
        "self_attn.norm_q.weight": (head_dim,),
        "self_attn.norm_k.weight": (head_dim,),
        "norm3.weight": (dim,),
        "norm3.bias": (dim,),
        **linear_tensors("cross_attn.q", dim, dim),
        **linear_tensors("cross_attn.kv", 2 * dim, dim),
        **linear_tensors("cross_attn.o", dim, dim),
        "cross_attn.norm_q.weight": (head_dim,),
        "cross_attn.norm_k.weight": (head_dim,),
        "ffn.0.weight": (ffn_dim, dim),
        "ffn.gate.weight": (ffn_dim, dim),
        "ffn.2.weight": (dim, ffn_dim),
    }
