"""Which blocks of a transformer are streamed, and what that reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.models.block_order import BlockName

READ_AHEAD = 1
SLOTS = READ_AHEAD + 1
"""Streamed blocks in memory: the one in use, and those being read."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What streaming a transformer means, in blocks and bytes.

    Attributes:
        streamed: the blocks that every step reads anew, in the order of their turns; the others stay.
        bytes_per_step: read from the file in every step.
    """

    streamed: tuple[BlockName, ...]
    bytes_per_step: int


def plan_stream(
    infos: Mapping[str, TensorInfo], order: Sequence[BlockName], resident_blocks: int
) -> StreamPlan:
    """Tell from a file's header what streaming it would read.

    Args:
        infos: tensors of the transformer's file.
        order: its blocks in the order of their turns.
        resident_blocks: how many stay in memory besides the slots of the streamed ones.
    """
    streamed = tuple(order[turn] for turn in choose_streamed(len(order), resident_blocks))
    prefixes = tuple(name.prefix for name in streamed)
    return StreamPlan(streamed, sum(info.nbytes for name, info in infos.items() if name.startswith(prefixes)))


def choose_streamed(num_blocks: int, resident_blocks: int) -> tuple[int, ...]:
    """Which blocks are streamed, as turns of a step: those left when the resident ones are spread evenly.

    Evenly, so that no reads come closer upon each other than they must. Blocks that would fit in the slots
    are not worth reading twice: then there are none.

    Args:
        num_blocks: of the transformer.
        resident_blocks: how many stay; 0 to any number.
    """
    kept = min(resident_blocks, num_blocks)
    streamed = tuple(
        turn for turn in range(num_blocks) if (turn + 1) * kept // num_blocks == turn * kept // num_blocks
    )
    return streamed if len(streamed) > SLOTS else ()
