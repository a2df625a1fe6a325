"""Names of a transformer's blocks, and the order in which they have their turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import mlx.nn as nn

MAIN = "blocks"
"""Sequence of the blocks that the tokens go through; those of all others belong to hooks."""


@dataclass(frozen=True, slots=True)
class BlockName:
    """One block of a transformer.

    Attributes:
        sequence: the list that it is in, as the names of its tensors begin.
        index: in that list.
    """

    sequence: str
    index: int

    @property
    def prefix(self) -> str:
        """Prefix of the names of its tensors."""
        return f"{self.sequence}.{self.index}."

    def __str__(self) -> str:
        return f"{self.sequence}.{self.index}"


FurtherBlocks = Mapping[int, BlockName]
"""Index of a main block → a block of another sequence, which has its turn behind that one."""


def order_blocks(num_layers: int, further: Iterable[FurtherBlocks] = ()) -> tuple[tuple[BlockName, ...], ...]:
    """Blocks in the order of their turns.

    Args:
        num_layers: how many main blocks there are.
        further: blocks of other sequences; one that is named twice has one turn.

    Returns:
        For each main block this one, and those whose turn is behind it.
    """
    others = tuple(further)
    return tuple(
        tuple(dict.fromkeys((BlockName(MAIN, index), *(one[index] for one in others if index in one))))
        for index in range(num_layers)
    )


def find_blocks(module: nn.Module, sequence: str) -> list[nn.Module]:
    """The list of a transformer's blocks that a sequence names."""
    found: Any = module
    for name in sequence.split("."):
        found = getattr(found, name)
    return cast(list[nn.Module], found)


def take_blocks(module: nn.Module, order: Iterable[BlockName]) -> dict[BlockName, nn.Module]:
    """Blocks of a transformer, in the order given; its lists of them are emptied."""
    blocks = {name: find_blocks(module, name.sequence)[name.index] for name in order}
    for sequence in dict.fromkeys(name.sequence for name in blocks):
        find_blocks(module, sequence).clear()
    return blocks


_PREFIX = re.compile(r"[^\d]+?\.\d+\.")


def find_prefix(tensor: str) -> str:
    """Prefix of a tensor's name that a block may have: up to its first number; "" where there is none."""
    found = _PREFIX.match(tensor)
    return found[0] if found else ""
