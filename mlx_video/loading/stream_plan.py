"""Which blocks of a transformer are streamed, and what that reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_video.formats.tensor_info import TensorInfo

READ_AHEAD = 1
SLOTS = READ_AHEAD + 1
"""Streamed blocks in memory: the one in use, and those being read."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What streaming a transformer means, in blocks and bytes.

    Attributes:
        streamed: indices of the blocks that every step reads anew; the others stay.
        bytes_per_step: read from the file in every step.
    """

    streamed: tuple[int, ...]
    bytes_per_step: int


def plan_stream(infos: Mapping[str, TensorInfo], num_layers: int, resident_blocks: int) -> StreamPlan:
    """Tell from a file's header what streaming it would read.

    Args:
        infos: tensors of the transformer's file.
        num_layers: its blocks.
        resident_blocks: how many stay in memory besides the slots of the streamed ones.
    """
    streamed = choose_streamed(num_layers, resident_blocks)
    prefixes = tuple(map(block_prefix, streamed))
    return StreamPlan(streamed, sum(info.nbytes for name, info in infos.items() if name.startswith(prefixes)))


def choose_streamed(num_layers: int, resident_blocks: int) -> tuple[int, ...]:
    """Which blocks are streamed: those left when the resident ones are spread evenly.

    Evenly, so that no reads come closer upon each other than they must. Blocks that would fit in the slots
    are not worth reading twice: then there are none.

    Args:
        num_layers: blocks of the transformer.
        resident_blocks: how many stay; 0 to any number.
    """
    kept = min(resident_blocks, num_layers)
    streamed = tuple(
        index for index in range(num_layers) if (index + 1) * kept // num_layers == index * kept // num_layers
    )
    return streamed if len(streamed) > SLOTS else ()


def block_prefix(index: int) -> str:
    """Prefix of the names of a block's tensors."""
    return f"blocks.{index}."
