"""One adapter file for two experts: which of its tensors are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_video.errors import AdapterError
from mlx_video.layouts.expert_names import Expert
from mlx_video.lora.dialects import AdapterKey, find_experts, find_owners
from mlx_video.lora.families import EXPERT_NAMES

BOTH: frozenset[Expert] = frozenset(("high_noise", "low_noise"))
HALF_NAMES: dict[Expert, str] = {"high_noise": "high-noise half", "low_noise": "low-noise half"}


@dataclass(frozen=True, slots=True)
class Part:
    """What of a file is for one transformer: all of it, or one of two halves.

    Attributes:
        label: what messages call it.
        keys: its tensors.
        strays: tensors of an adapter that name neither expert, in a file where others do.
        expert: whose half it is; None for a whole file.
    """

    label: str
    keys: tuple[AdapterKey, ...]
    strays: tuple[AdapterKey, ...] = ()
    expert: Expert | None = None

    @property
    def size(self) -> int:
        """How many tensors there are to fit."""
        return len(self.keys) + len(self.strays)


def take_part(label: str, keys: Sequence[AdapterKey], transformer: str) -> Part:
    """Choose the tensors for one transformer.

    A file for one expert alone is taken whole: who names it for the other one means that.

    Args:
        label: what messages call the file.
        keys: all of its tensors.
        transformer: "model", "high_noise" or "low_noise".

    Raises:
        AdapterError: the file is for two experts, and there is one transformer.
    """
    if find_experts(keys) != BOTH:
        return Part(label, tuple(keys))
    owned = [key for key in keys if key.role]
    owners = find_owners(owned)
    halves: dict[str, tuple[AdapterKey, ...]] = {
        expert: tuple(key for key, owner in zip(owned, owners, strict=True) if owner == expert)
        for expert in BOTH
    }
    if transformer not in halves:
        high, low = halves["high_noise"], halves["low_noise"]
        raise AdapterError(
            f"{label}: holds two adapters, one for each expert of a Wan2.2 A14B model: {len(high)} keys for "
            f"the {EXPERT_NAMES['high_noise']} (first: {high[0].name}), {len(low)} for the "
            f"{EXPERT_NAMES['low_noise']} (first: {low[0].name}). This model has one transformer. Use an "
            "adapter for one."
        )
    expert: Expert = "high_noise" if transformer == "high_noise" else "low_noise"
    others = tuple(key for key in keys if not key.role)
    strays = tuple(key for key, owner in zip(owned, owners, strict=True) if owner is None)
    return Part(f"{label}, {HALF_NAMES[expert]}", halves[expert] + others, strays, expert)
