"""What an adapter is: dialect, ranks, the model and the experts it was made for, and what of it is zero."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_video.config import FaceConfig, TransformerConfig
from mlx_video.inspect.inspection import AdapterFacts
from mlx_video.layouts.components import Expert
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.dialects import (
    AdapterKey,
    Spellings,
    find_experts,
    find_owners,
    is_diffusers,
    parse_key,
)
from mlx_video.lora.families import guess_expert, guess_family
from mlx_video.lora.halves import BOTH, HALF_NAMES
from mlx_video.lora.report import describe_zeros
from mlx_video.lora.scaling import read_scaling
from mlx_video.lora.zeros import Zeros, find_idle_layer
from mlx_video.variants.registry import list_networks
from mlx_video.variants.sizes import describe_width
from mlx_video.weights.names.adapter_names import PAIR_ROLES, Role

# A transformer that has every layer of the family's; only names are made of it.
_LARGEST = TransformerConfig(
    dim=64, ffn_dim=64, num_heads=1, num_layers=48, in_dim=36, image_dim=64, image_positions=2, time_dim=64,
    face=FaceConfig(),
)  # fmt: skip
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
    """Find out what an adapter is; alphas are not read, and of factors no more than tells them from zeros.

    Args:
        path: the file, or its folder.

    Raises:
        AdapterError: its metadata cannot be read.
        CheckpointError: the file is damaged.
    """
    file = AdapterFile(path)
    keys = [parse_key(name) for name in file.infos]
    layers = _find_layers(keys)
    matched = [key for key in keys if key.role and layers[key.name]]
    counts = _count_layers(file, keys, layers)
    ranks = [file.shape(key.name)[0] for key in keys if key.role == "down" and file.shape(key.name)]
    return AdapterFacts(
        dialect=_dialect(keys),
        pairs=sum(key.role in PAIR_ROLES for key in keys),
        ranks=(min(ranks), max(ranks)) if ranks else None,
        alpha=_find_alpha(file, keys),
        made_for=_describe_model(file, matched) if matched else guess_family(keys),
        expert=guess_expert(path.stem, keys) or "",
        unmatched=len(keys) - len(matched),
        layers=sum(count.layers for count in counts.values()),
        zero_layers=sum(count.zeros.layers for count in counts.values()),
        halves=tuple(sorted(experts)) if (experts := find_experts(keys)) == BOTH else (),
        remarks=tuple(_remark(file.label, counts)),
    )


@dataclass(frozen=True, slots=True)
class _Count:
    """Layers that a file, or one half of it, holds something for; and those it leaves as they are."""

    layers: int
    zeros: Zeros


def _count_layers(
    file: AdapterFile, keys: Sequence[AdapterKey], layers: Mapping[str, str | None]
) -> dict[Expert | None, _Count]:
    """The layers of each expert; None stands for those that name none.

    Args:
        file: the adapter.
        keys: its tensors.
        layers: name of a tensor → our layer, where it has one.
    """
    parts = [key for key in keys if key.role]
    grouped: dict[Expert | None, dict[str, dict[Role, str]]] = {}
    for key, owner in zip(parts, find_owners(parts), strict=True):
        of_layer = grouped.setdefault(owner, {}).setdefault(layers[key.name] or key.path, {})
        of_layer |= {key.role: key.name} if key.role else {}
    return {owner: _count_zeros(file, list(of_owner.values())) for owner, of_owner in grouped.items()}


def _count_zeros(file: AdapterFile, layers: Sequence[Mapping[Role, str]]) -> _Count:
    idle = [name for name in (find_idle_layer(file, roles) for roles in layers) if name]
    return _Count(len(layers), Zeros(len(idle), next(iter(idle), "")))


def _remark(label: str, counts: Mapping[Expert | None, _Count]) -> Iterator[str]:
    """That a file is for two experts, and what of it changes nothing."""
    if counts.keys() >= BOTH:
        high, low = counts["high_noise"].layers, counts["low_noise"].layers
        yield (
            f"holds one adapter for each expert of a Wan2.2 A14B model: {high} layers of the high-noise one, "
            f"{low} of the low-noise one. Given as --lora, each goes to its expert"
        )
    for owner, count in counts.items():
        part = f"{label}, {HALF_NAMES[owner]}" if owner and counts.keys() >= BOTH else label
        if count.zeros.layers == count.layers:
            yield describe_zeros(part, count.zeros)
        elif count.zeros.layers:
            yield (
                f"{part}: changes nothing in {count.zeros.layers} of {count.layers} layers: zeros (first: "
                f"{count.zeros.first})"
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


def _find_layers(keys: Sequence[AdapterKey]) -> dict[str, str | None]:
    """Name of each tensor → the layer of any transformer of the family that it changes; None for none."""
    has_diffusers_names = is_diffusers(keys)
    known = [
        Spellings(
            tuple(network.parameters(_LARGEST)),
            network.rules,
            network.diffusers_rules,
            diffusers=has_diffusers_names,
        )
        for network in list_networks()
    ]
    return {key.name: next(filter(None, (one.find(key) for one in known)), None) for key in keys}


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
