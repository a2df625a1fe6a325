"""What an adapter is, told by its names and shapes: dialect, ranks, the model it was made for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlx_video.config import TransformerConfig
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.dialects import AdapterKey, Spellings, is_diffusers, parse_key
from mlx_video.lora.families import guess_expert, guess_family
from mlx_video.lora.read import transformer_shapes
from mlx_video.lora.scaling import read_scaling
from mlx_video.pipeline.inspection import AdapterFacts
from mlx_video.variants.sizes import describe_width
from mlx_video.weights.adapter_names import PAIR_ROLES

# A transformer that has every layer of the family's; only names are made of it.
_LARGEST = TransformerConfig(
    dim=64, ffn_dim=64, num_heads=1, num_layers=40, in_dim=36, image_dim=64, image_positions=2
)
_ENDINGS = {
    ".lora_A": "PEFT pairs (lora_A, lora_B)",
    ".lora_down": "Kohya pairs (lora_down, lora_up)",
    "lora.down": "Diffusers' old pairs (lora.down, lora.up)",
    "lora_linear_layer": "Diffusers' old pairs (lora_linear_layer)",
    ".hada_w1_a": "LoHa (hada_w1, hada_w2)",
    ".lokr_w1": "LoKr (lokr_w1, lokr_w2)",
    ".diff": "whole deltas (diff)",
    ".w_norm": "whole deltas of norms (w_norm, b_norm)",
}


def describe_adapter(path: Path) -> AdapterFacts:
    """Find out what an adapter is; alphas and factors are not read.

    Args:
        path: the file, or its folder.

    Raises:
        AdapterError: its metadata cannot be read.
        CheckpointError: the file is damaged.
    """
    file = AdapterFile(path)
    keys = [parse_key(name) for name in file.infos]
    spellings = Spellings(tuple(transformer_shapes(_LARGEST)), diffusers=is_diffusers(keys))
    layers = {key.name: spellings.find(key) for key in keys}
    matched = [key for key in keys if key.role and layers[key.name]]
    ranks = [file.shape(key.name)[0] for key in keys if key.role == "down" and file.shape(key.name)]
    return AdapterFacts(
        dialect=_dialect(keys),
        pairs=sum(key.role in PAIR_ROLES for key in keys),
        ranks=(min(ranks), max(ranks)) if ranks else None,
        alpha=_find_alpha(file, keys),
        made_for=_describe_model(file, matched) if matched else guess_family(keys),
        expert=guess_expert(path.stem, keys) or "",
        unmatched=len(keys) - len(matched),
    )


def _dialect(keys: Sequence[AdapterKey]) -> str:
    prefixes = Counter("".join(key.prefixes) for key in keys)
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    kinds = [kind for end, kind in _ENDINGS.items() if any(end in key.name for key in keys)]
    layers = "Diffusers' layer names" if is_diffusers(keys) else "Wan's layer names"
    return ", ".join([*kinds[:2], layers, f"behind {prefix}" if prefix else "without a prefix"])


def _find_alpha(file: AdapterFile, keys: Iterable[AdapterKey]) -> str:
    if any(key.role == "alpha" for key in keys):
        return "in tensors"
    source = read_scaling(file).source
    return f"in {source}" if source else "absent"


def _describe_model(file: AdapterFile, matched: Sequence[AdapterKey]) -> str:
    """The model, by the inputs of its attention, the number of its blocks and its image branch."""
    shapes = {
        file.shape(key.name)
        for key in matched
        if key.role == "down" and re.search(r"(self_attn|cross_attn|attn[12])[._](to_)?[qkv]$", key.path)
    }
    widths = {shape[-1] for shape in shapes if shape}
    blocks = [int(match[1]) for key in matched if (match := re.match(r"blocks[._](\d+)", key.path))]
    texts = [describe_width(widths.pop())] if len(widths) == 1 else ["a Wan model of unknown width"]
    if blocks:
        texts.append(f"blocks up to {max(blocks)}")
    if any(re.search(r"k_img|v_img|add_[kv]_proj|img_emb|image_embedder", key.path) for key in matched):
        texts.append("with an image branch, as Wan2.1 I2V")
    return ", ".join(texts)
