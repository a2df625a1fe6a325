"""Tensors of an expert for a reference video, beside those of an image-to-video transformer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from mlx_video.config import TransformerConfig
from mlx_video.weights.names.transformer_names import (
    DIFFUSERS_BLOCK,
    DIFFUSERS_RULES,
    WAN_RULES,
    block_tensors,
    transformer_tensors,
)
from mlx_video.weights.rules import Rule, Shape

EXPERT = "mot_ref."
"""How the expert's names begin, in the network and in a block; plain names stand behind it."""

_BLOCK = re.compile(r"blocks\.(\d+)\.mot_ref\.")
_SUFFIX = "_mot_ref"
_STEM = ("patch_embedding", "text_embedding", "time_embedding", "time_projection")

MOT_RULES = (
    *(
        replace(rule, source=EXPERT + rule.source, target=EXPERT + str(rule.target))
        for rule in WAN_RULES
        if rule.source.startswith(_STEM)
    ),
    Rule("blocks.N.mot_ref.ffn.0.*", "blocks.N.mot_ref.ffn.fc1.*"),
    Rule("blocks.N.mot_ref.ffn.2.*", "blocks.N.mot_ref.ffn.fc2.*"),
)
"""From the names of :func:`mot_tensors` to ours, where these differ."""


def _suffixed(name: str) -> str:
    """Diffusers' name of a part, with the expert's suffix behind its first word."""
    first, *others = name.split(".")
    return ".".join((first + _SUFFIX, *others))


# Source: bytedance/Video-As-Prompt diffusers transformer_wan_mot.py, WanTransformer3DMOTModel.
MOT_DIFFUSERS_RULES = (
    Rule(f"patch_embedding{_SUFFIX}.*", f"{EXPERT}patch_embedding.*"),
    *(
        replace(rule, source=_suffixed(rule.source), target=EXPERT + str(rule.target))
        for rule in DIFFUSERS_RULES
        if rule.source.startswith("condition_embedder.")
    ),
    *(
        Rule(f"blocks.N.{_suffixed(theirs)}", f"blocks.N.{EXPERT}{official}")
        for theirs, official in DIFFUSERS_BLOCK.items()
    ),
)
"""From Diffusers' names to those of :func:`mot_tensors`."""


def mot_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the expert; only Diffusers' spelling of them is published."""
    outer = {
        EXPERT + name: shape
        for name, shape in transformer_tensors(config).items()
        if name.startswith((*_STEM, "img_emb"))
    }
    block = block_tensors(config)
    inner = {
        f"blocks.{index}.{EXPERT}{name}": shape
        for index in config.mot_layers
        for name, shape in block.items()
    }
    return outer | inner


def find_mot_layers(names: Iterable[str]) -> tuple[int, ...]:
    """Indices of the blocks that have an expert, by the names of a transformer's tensors."""
    return tuple(sorted({int(match[1]) for name in names if (match := _BLOCK.match(name))}))
