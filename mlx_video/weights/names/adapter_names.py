"""How names of tensors end that belong to an adapter, and what each end says the tensor is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Role = Literal[
    "down", "up", "up_bias", "alpha", "magnitude", "diff", "diff_b", "diff_m", "set_weight",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
    "lora_mid", "reshape_weight", "hada_t1", "hada_t2", "lokr_t2",
]  # fmt: skip

# Of each pair of any kind, the tensors by which pairs are counted.
PAIR_ROLES: tuple[Role, ...] = ("down", "hada_w1_a", "lokr_w1", "lokr_w1_a")

# Tensors whose product is one change: zero as soon as one of them is.
PRODUCT_ROLES: tuple[tuple[Role, ...], ...] = (
    ("down", "up"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    ("diff",), ("diff_m",), ("diff_b",), ("up_bias",),
)  # fmt: skip

_LITERAL_ROLES: tuple[Role, ...] = (
    "alpha", "diff_m", "set_weight", "reshape_weight", "hada_t1", "hada_t2", "lokr_t2",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
)  # fmt: skip
# An adapter of PEFT may have a name inside its keys, "default" as a rule.
# Source: huggingface/peft, kohya-ss/sd-scripts and KohakuBlueleaf/LyCORIS, the names that they save.
_ENDINGS: Mapping[Role, str] = MappingProxyType(
    {
        "down": r"\.lora_A(\.[^.]+)?\.weight|\.lora_down\.weight|[._]lora\.down\.weight"
        r"|\.lora_linear_layer\.down\.weight|\.lora_A|\.lora_down",
        "up": r"\.lora_B(\.[^.]+)?\.weight|\.lora_up\.weight|[._]lora\.up\.weight"
        r"|\.lora_linear_layer\.up\.weight|\.lora_B|\.lora_up",
        "up_bias": r"\.lora_B(\.[^.]+)?\.bias|\.lora_up\.bias",
        "magnitude": r"\.dora_scale|\.lora_magnitude_vector(\.[^.]+)?(\.weight)?",
        "diff": r"\.diff|\.w_norm",
        "diff_b": r"\.diff_b|\.b_norm",
        "lora_mid": r"\.lora_mid\.weight",
        **{role: rf"\.{role}" for role in _LITERAL_ROLES},
    }
)
# Every ending begins with a dot or an underscore; looking for these first is several times as fast.
_KEY = re.compile(
    "(?P<path>.+?)(?=[._])(?:" + "|".join(f"(?P<{role}>{ending})" for role, ending in _ENDINGS.items()) + ")"
)


def split_adapter_name(name: str) -> tuple[str, Role | None]:
    """Which layer a tensor changes, in the file's spelling, and its role there: None for no adapter's."""
    match = _KEY.fullmatch(name)
    if match is None:
        return name, None
    return match["path"], next(role for role in _ENDINGS if match[role] is not None)


def is_adapter_name(name: str) -> bool:
    """Whether only an adapter has a tensor of this name; networks of other kinds have an `alpha` too."""
    return split_adapter_name(name)[1] not in (None, "alpha")
