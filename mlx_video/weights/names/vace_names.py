"""VACE's tensors beside those of the transformer: which there are, and their converted spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlx_video.config import TransformerConfig
from mlx_video.weights.names.transformer_names import (
    block_tensors,
    linear_tensors,
)
from mlx_video.weights.rules import FLATTEN_KERNEL, Rule, Shape

VACE_ANCHOR = "vace_patch_embedding.weight"

VACE_RULES = (
    Rule(VACE_ANCHOR, "vace_patch_embedding_proj.weight", FLATTEN_KERNEL),
    Rule("vace_patch_embedding.bias", "vace_patch_embedding_proj.bias"),
    Rule("vace_blocks.0.before_proj.*", "vace_before_proj.*"),
    Rule("vace_blocks.N.ffn.0.*", "vace_blocks.N.ffn.fc1.*"),
    Rule("vace_blocks.N.ffn.2.*", "vace_blocks.N.ffn.fc2.*"),
)
"""From the official names to ours, where these differ."""

_BLOCK = re.compile(r"vace_blocks\.(\d+)\.")


def vace_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor that VACE adds to a transformer, as the official code spells them.

    Source: Wan2.1 wan/modules/vace_model.py, VaceWanModel.
    """
    dim = config.dim
    tensors: dict[str, Shape] = {
        VACE_ANCHOR: (dim, config.vace_in_dim, *config.patch_size),
        "vace_patch_embedding.bias": (dim,),
        **linear_tensors("vace_blocks.0.before_proj", dim, dim),
    }
    block = block_tensors(config) | linear_tensors("after_proj", dim, dim)
    for number in range(len(config.vace_layers)):
        tensors |= {f"vace_blocks.{number}.{name}": shape for name, shape in block.items()}
    return tensors


def count_vace_blocks(names: Iterable[str]) -> int:
    """Number of VACE blocks among a transformer's tensors, under whoever's names."""
    return len({match[1] for name in names if (match := _BLOCK.match(name))})
