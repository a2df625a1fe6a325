"""How adapter files spell a layer and what a tensor does to it; each spelling leads to one of our layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from mlx_video.layouts.components import Expert
from mlx_video.weights.names.adapter_names import Role, split_adapter_name
from mlx_video.weights.names.transformer_names import DIFFUSERS_RULES, WAN_RULES
from mlx_video.weights.rules import Rule, find_sources

# Roles that no published Wan adapter has.
UNSUPPORTED: Mapping[Role, str] = MappingProxyType(
    {
        "lora_mid": "a Tucker core",
        "hada_t1": "a Tucker core",
        "hada_t2": "a Tucker core",
        "lokr_t2": "a Tucker core",
    }
)

# Source: huggingface/diffusers pipeline_wan.py, WanPipeline: `transformer_2` serves the low-noise steps;
# ostris/ai-toolkit wan22_14b_model.py, Wan2214bModel.save_lora: `transformer_1` is the high-noise one.
EXPERT_PREFIXES: Mapping[str, Expert] = MappingProxyType(
    {
        "transformer_1.": "high_noise",
        "transformer_2.": "low_noise",
        "transformer_1_": "high_noise",
        "transformer_2_": "low_noise",
    }
)
# Diffusers' only transformer, or the high-noise one beside `transformer_2`.
FIRST_TRANSFORMER = "transformer."
PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", FIRST_TRANSFORMER, *EXPERT_PREFIXES,
    "pipe.dit.", "dit.", "unet.", "model.",
    "lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
TEXT_ENCODER_PREFIXES = (
    "text_encoder.", "text_encoders.", "text_encoder_2.", "lora_te_", "lora_te1_", "lora_te2_",
)  # fmt: skip
_LONGEST_FIRST = tuple(sorted(PREFIXES, key=len, reverse=True))

_DIFFUSERS_MARK = re.compile(
    r"[._]attn[12][._]|condition_embedder|ffn[._]net[._]|ffn[._]fc_(in|out)|scale_shift_table|proj_out"
    # LongCat-Video's authors, whose names lead to ours by rules of the same kind.
    r"|[._](adaLN_modulation|pre_crs_attn_norm|[qkv]{1,2}_linear)|[._]attn[._](qkv|proj)|ffn[._]w[123]"
    r"|^[xyt]_embedder|^final_layer"
)


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """One tensor of an adapter file.

    Attributes:
        name: as it stands in the file.
        path: the layer, in the file's spelling without prefixes.
        role: what the tensor is for; None for a tensor that is no part of an adapter.
        prefixes: what stood before the path.
    """

    name: str
    path: str
    role: Role | None
    prefixes: tuple[str, ...] = ()

    @property
    def expert(self) -> Expert | None:
        """The expert that its prefix names; None where it names none."""
        return next((EXPERT_PREFIXES[name] for name in self.prefixes if name in EXPERT_PREFIXES), None)

    @property
    def is_of_text_encoder(self) -> bool:
        """Whether it changes a text encoder, which no tool for Wan trains."""
        return self.path.startswith(TEXT_ENCODER_PREFIXES)


def parse_key(name: str) -> AdapterKey:
    """Take a tensor's name apart: prefixes, layer, role."""
    path, role = split_adapter_name(name)
    path, prefixes = _strip_prefixes(path)
    return AdapterKey(name, path, role, prefixes)


def _strip_prefixes(path: str) -> tuple[str, tuple[str, ...]]:
    stripped: list[str] = []
    while prefix := next((prefix for prefix in _LONGEST_FIRST if path.startswith(prefix)), None):
        stripped.append(prefix)
        path = path.removeprefix(prefix)
    return path, tuple(stripped)


def is_diffusers(keys: Iterable[AdapterKey]) -> bool:
    """Whether a file spells layers as Diffusers does, or another that is not the Wan original.

    This matters where both spell a name and mean different layers by it: `norm2` is our `norm3` there.
    """
    return any(_DIFFUSERS_MARK.search(key.path) for key in keys)


def find_experts(keys: Sequence[AdapterKey]) -> frozenset[Expert]:
    """The experts that an adapter is for, as far as its prefixes tell; empty where they name none."""
    owners = find_owners([key for key in keys if key.role])
    return frozenset(owner for owner in owners if owner is not None)


def find_owners(keys: Sequence[AdapterKey]) -> list[Expert | None]:
    """The expert that each key is for; beside Diffusers' second transformer, its first is the high-noise one.

    Args:
        keys: all of one adapter.

    Returns:
        One for each key; None for those that name none.
    """
    named = {key.expert for key in keys}
    is_pair = "low_noise" in named and "high_noise" not in named
    return [
        "high_noise" if is_pair and not key.expert and FIRST_TRANSFORMER in key.prefixes else key.expert
        for key in keys
    ]


def layer_of(name: str) -> str:
    """Path of the layer that a parameter belongs to; a parameter that is no layer's stands for itself."""
    return name.removesuffix(".weight").removesuffix(".bias")


class Spellings:
    """Every spelling of the layers of one transformer.

    The rules that convert weights make it: dotted names, ours, the official ones and Diffusers', and the same
    with dots flattened to underscores. A flattened name is never split, since underscores are parts of names.
    Old LoKr files of AI-Toolkit mix both: `self_attn_to_out_0`.

    Args:
        names: the transformer's parameters.
        rules: official name → theirs.
        foreign_rules: Diffusers' name → official name.
        diffusers: whether Diffusers' spellings count.
    """

    def __init__(
        self,
        names: Sequence[str],
        rules: tuple[Rule, ...] = WAN_RULES,
        foreign_rules: tuple[Rule, ...] = DIFFUSERS_RULES,
        *,
        diffusers: bool,
    ) -> None:
        self._layers = _spell_layers(tuple(names), rules, foreign_rules if diffusers else None)

    def find(self, key: AdapterKey) -> str | None:
        """The layer, or the parameter that is no layer's, to which a key belongs; None if there is none."""
        if key.role != "diff_m":
            return self._layers.get(key.path)
        return self._layers.get(f"{key.path}.modulation") or self._layers.get(f"{key.path}_modulation")


@lru_cache(maxsize=4)
def _spell_layers(
    names: tuple[str, ...], rules: tuple[Rule, ...], foreign_rules: tuple[Rule, ...] | None
) -> Mapping[str, str]:
    layers: dict[str, str] = {}
    first_names = {layer_of(name): name for name in reversed(names)}
    for layer, name in first_names.items():
        official = find_sources(name, rules)
        foreign = [other for own in official for other in find_sources(own, foreign_rules or ())]
        for spelling in map(layer_of, (*official, *foreign)):
            _add(layers, spelling, layer)
            flat = spelling.replace(".", "_")
            _add(layers, flat, layer)
            _add(layers, flat.replace("_attn1_", "_self_attn_").replace("_attn2_", "_cross_attn_"), layer)
    return MappingProxyType(layers)


def _add(layers: dict[str, str], spelling: str, layer: str) -> None:
    other = layers.setdefault(spelling, layer)
    if other != layer:
        raise ValueError(f"{spelling} could be {other} or {layer}")
