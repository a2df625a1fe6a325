"""Which file of a folder is an adapter, told by its name alone."""

from __future__ import annotations

from collections.abc import Collection

# What PEFT and Diffusers call an adapter inside its folder.
ADAPTER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
# PEFT's description beside it, without which the adapter's scale is lost.
ADAPTER_CONFIG = "adapter_config.json"


def adapter_candidates(names: Collection[str]) -> list[str]:
    """The files of a folder that may be its adapter.

    Args:
        names: of the files that lie in it.

    Returns:
        One where a name is known or only one file holds tensors; else all safetensors files, sorted.
    """
    known = [name for name in ADAPTER_FILES if name in names]
    others = sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("."))
    return known[:1] or others
