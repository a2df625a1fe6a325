"""Which process computes what of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_video.models.block_context import Pass
from mlx_video.planning.division import UNDIVIDED, Division
from mlx_video.runs.sharing import WHOLE, SharedWeights


@dataclass(frozen=True, slots=True)
class StepSplit:
    """A step shared out: groups of neighbouring ranks take turns at its branches; a group makes one together.

    Attributes:
        size: how many processes there are.
        groups: how many groups; 1 where all work on every branch.
        share_pass: makes of a pass the part of it that this process computes.
        weights: how a group shares the weights of transformers; None where each process has all.
        division: what a process of a group has in memory of a transformer's work.
    """

    size: int
    groups: int
    share_pass: Callable[[Pass], Pass] = WHOLE.share_pass
    weights: SharedWeights | None = None
    division: Division = UNDIVIDED

    @property
    def is_joint(self) -> bool:
        """Whether several processes make a branch together."""
        return self.size > self.groups

    def group_of(self, rank: int) -> int:
        """The group of a process, from 0."""
        return rank * self.groups // self.size

    def branches_of(self, rank: int, names: Sequence[str]) -> list[str]:
        """Names of the branches that a process computes.

        Args:
            rank: of the process.
            names: of all branches that a step may ask for.
        """
        return [name for index, name in enumerate(names) if index % self.groups == self.group_of(rank)]

    @property
    def bearer(self) -> int | None:
        """The rank that brings rank 0 what the last group has computed: its neighbour in MLX's ring."""
        return self.size - 1 if self.groups > 1 else None
