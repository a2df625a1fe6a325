"""FastVideo's MLX file of a transformer: its own names, and quantized weights under names of their own."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from mlx_video.formats.safetensors_header import read_header
from mlx_video.formats.tensor_file import Placement, TensorFile, contiguous_strides
from mlx_video.weights.names.transformer_names import DIFFUSERS_RULES, WAN_RULES
from mlx_video.weights.rules import Rule, apply_rules

# Only FastVideo calls the norm between the attentions so.
FASTVIDEO_ANCHOR = "blocks.0.self_attn_residual_norm.norm.weight"

# Outside of blocks the names are Diffusers'.
# Source: hao-ai-lab/FastVideo fastvideo/mlx_runtime/fastwan.py, _WAN_BLOCK_KEY_MAP.
_BLOCK = {
    "self_attn_residual_norm.norm.*": "norm3.*",
    **{
        f"{theirs}{part}.*": f"{ours}.{official}.*"
        for theirs, ours in (("", "self_attn"), ("attn2.", "cross_attn"))
        for part, official in (
            ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out", "o"),
            ("norm_q", "norm_q"), ("norm_k", "norm_k"),
        )
    },
}  # fmt: skip
FASTVIDEO_RULES = (
    *(Rule(f"blocks.N.{theirs}", f"blocks.N.{ours}") for theirs, ours in _BLOCK.items()),
    *DIFFUSERS_RULES,
)
_COMPANION = re.compile(r"(?P<weight>.+\.weight)\.(?P<part>scales|biases)")


def is_fastvideo(names: Container[str]) -> bool:
    """Whether tensors have FastVideo's names."""
    return FASTVIDEO_ANCHOR in names


def converted_name(name: str) -> str | None:
    """The name of one of FastVideo's tensors in a converted file; None for one that is left out."""
    if companion := _COMPANION.fullmatch(name):
        weight = converted_name(companion["weight"])
        return weight and weight.removesuffix("weight") + companion["part"]
    official, _ = apply_rules(name, FASTVIDEO_RULES)
    return official and apply_rules(official, WAN_RULES)[0]


def open_fastvideo_file(path: Path) -> TensorFile:
    """Open FastVideo's file as if it was a converted one; the bytes are the same.

    Raises:
        CheckpointError: it is no whole safetensors file.
    """
    header = read_header(path)
    return TensorFile(
        path,
        [
            Placement(
                replace(info, name=target, stored_as=name),
                header.data_start + header.offsets[name][0],
                contiguous_strides(info.shape),
            )
            for name, info in header.infos.items()
            if (target := converted_name(name))
        ],
    )
