"""Tensors that published adapters carry along although no layer takes them: known, and harmless."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_video.lora.dialects import AdapterKey
from mlx_video.lora.families import IMAGE_BRANCH
from mlx_video.weights.names.adapter_names import Role


@dataclass(frozen=True, slots=True)
class Leftover:
    """One kind of adapters with such tensors.

    Attributes:
        mark: layer of a tensor by which a file of this kind is known.
        role: of that tensor.
        paths: layers whose tensors are left over.
        kind: which adapters these are, for messages.
    """

    mark: re.Pattern[str]
    role: Role
    paths: re.Pattern[str]
    kind: str


LEFTOVERS = (
    # Differences of whole image-to-video checkpoints, norms included, which no trainer of pairs writes. Their
    # makers publish them for Wan2.2 too, whose experts have no image branch.
    # Source: ModelTC/LightX2V, issues 417 and 1246; kijai/ComfyUI-WanVideoWrapper, issue 909.
    Leftover(
        mark=re.compile(r"[._](norm_k_img|norm_added_k)$"),
        role="diff",
        paths=IMAGE_BRANCH,
        kind="LightX2V's image-to-video adapters",
    ),
)


def name_leftover(key: AdapterKey, kinds: Sequence[Leftover]) -> str:
    """The kind of adapters in which a tensor that fits nothing does no harm; "" where none is known."""
    return next((leftover.kind for leftover in kinds if leftover.paths.search(key.path)), "")


def find_leftovers(keys: Sequence[AdapterKey]) -> list[Leftover]:
    """The kinds of which a file is.

    Args:
        keys: all of its tensors.
    """
    return [
        leftover
        for leftover in LEFTOVERS
        if any(key.role == leftover.role and leftover.mark.search(key.path) for key in keys)
    ]
