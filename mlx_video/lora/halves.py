"""One adapter file for two experts: which of its tensors are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_video.errors import AdapterError
from mlx_video.layouts.components import EXPERTS, Expert, find_role
from mlx_video.lora.dialects import AdapterKey, find_experts, find_owners

BOTH: frozenset[Expert] = frozenset(EXPERTS)
HALF_NAMES: dict[Expert, str] = {expert: f"{find_role(expert).noise} half" for expert in EXPERTS}


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
        transformer: the name of its role.

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
        (high, its_keys), (low, other_keys) = ((find_role(name), halves[name]) for name in reversed(EXPERTS))
        raise AdapterError(
            f"{label}: holds two adapters, one for each expert of a Wan2.2 A14B model: {len(its_keys)} keys "
            f"for the {high.words} (first: {its_keys[0].name}), {len(other_keys)} for the {low.words} "
            f"(first: {other_keys[0].name}). This model has one transformer. Use an adapter for one."
        )
    expert = next(expert for expert in EXPERTS if expert == transformer)
    others = tuple(key for key in keys if not key.role)
    strays = tuple(key for key, owner in zip(owned, owners, strict=True) if owner is None)
    return Part(f"{label}, {HALF_NAMES[expert]}", halves[expert] + others, strays, expert)
