"""Diffusers' port of the transformer, under the official names: the reference for Wan2.1's image branch.

The published reference package (wan22) has no Wan2.1 image-to-video transformer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_video.config import TransformerConfig

# Official name part → Diffusers' name part, for whole names.
PATHS = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "vace_patch_embedding": "vace_patch_embedding",
}
TABLES = {
    "head.modulation": "scale_shift_table",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
}
BLOCK_PATHS = {
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "before_proj": "proj_in",
    "after_proj": "proj_out",
}
for ours_name, theirs_name in (("self_attn", "attn1"), ("cross_attn", "attn2")):
    BLOCK_PATHS |= {f"{ours_name}.{letter}": f"{theirs_name}.to_{letter}" for letter in "qkv"}
    BLOCK_PATHS |= {f"{ours_name}.norm_{letter}": f"{theirs_name}.norm_{letter}" for letter in "qk"}
    BLOCK_PATHS[f"{ours_name}.o"] = f"{theirs_name}.to_out.0"


def diffusers_name(name: str) -> str:
    if "mot_ref." in name:
        # Behind the expert's first word, or behind that of its block.
        block, _, rest = name.rpartition("mot_ref.")
        theirs = diffusers_name(f"blocks.0.{rest}" if block else rest).removeprefix("blocks.0.")
        first, dot, others = theirs.partition(".")
        return f"{block}{first}_mot_ref{dot}{others}"
    if name in TABLES:
        return TABLES[name]
    if match := re.fullmatch(r"((?:vace_)?blocks\.\d+)\.(.+?)(?:\.(weight|bias))?", name):
        block, path, part = match.groups()
        return f"{block}.scale_shift_table" if path == "modulation" else f"{block}.{BLOCK_PATHS[path]}.{part}"
    path, _, part = name.rpartition(".")
    return f"{PATHS[path]}.{part}"


def build_diffusers(config: TransformerConfig, arrays: Mapping[str, np.ndarray]) -> Any:
    """Diffusers' transformer of these sizes.

    Args:
        config: sizes.
        arrays: every tensor, under the official names.
    """
    import torch
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=config.patch_size, num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim, in_channels=config.in_dim, out_channels=config.out_dim,
        text_dim=config.text_dim, freq_dim=config.freq_dim, ffn_dim=config.ffn_dim,
        num_layers=config.num_layers, eps=config.eps, image_dim=config.image_dim,
        added_kv_proj_dim=config.dim, pos_embed_seq_len=config.image_positions or None,
    )  # fmt: skip
    model.load_state_dict({diffusers_name(name): torch.tensor(values) for name, values in arrays.items()})
    return model.eval().requires_grad_(False)
