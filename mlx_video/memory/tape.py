"""Which arrays exist at the same time while MLX works through a row of operations."""

from __future__ import annotations

import math
from dataclasses import dataclass

TASKS_AHEAD = 10.0
"""Tasks that MLX schedules ahead of what has run; with more it waits for one to end.

Source: mlx mlx/transforms.cpp, MAX_ACTIVE_TASKS.
"""


@dataclass(slots=True)
class _Operation:
    nbytes: int
    start: float  # tasks up to here
    end: float
    last_use: int
    is_wait: bool


class Tape:
    """Operations in the order in which MLX schedules them, with the bytes that each one makes.

    MLX allocates a result when it schedules the operation, and frees an array when the last operation that
    reads it has run. It schedules ahead of what runs. So a peak has two parts: what operations need, and what
    was allocated early.
    """

    def __init__(self) -> None:
        self._operations: list[_Operation] = []

    def make(self, nbytes: float, *reads: int, tasks: float = 0.0) -> int:
        """Add an operation.

        Args:
            nbytes: of the array that it makes; 0 for one that overwrites an array it reads.
            reads: arrays that it reads, as this method returned them; they live until it has run.
            tasks: share of one of MLX's tasks that it takes up.

        Returns:
            The array.
        """
        index = len(self._operations)
        start = self._operations[-1].end if self._operations else 0.0
        self._operations.append(_Operation(math.ceil(nbytes), start, start + tasks, index, False))
        for array in reads:
            self._operations[array].last_use = index
        return index

    def use(self, *reads: int) -> None:
        """Keep arrays alive until here, as a variable does that still names them."""
        self.make(0, *reads)

    def wait(self, *reads: int) -> None:
        """Evaluate: everything scheduled so far runs before anything else is scheduled."""
        self._operations[self.make(0, *reads)].is_wait = True

    def peak(self, tasks_ahead: float = TASKS_AHEAD) -> int:
        """Most bytes that exist at one moment.

        Args:
            tasks_ahead: that are scheduled and have not run; 0 for what the operations need at least.
        """
        by_last_use = sorted(range(len(self._operations)), key=lambda i: self._operations[i].last_use)
        live = peak = freed = 0
        waited = -1
        for index, operation in enumerate(self._operations):
            waited = index if operation.is_wait else waited
            while self._has_run(by_last_use[freed], index, waited, tasks_ahead):
                live -= self._operations[by_last_use[freed]].nbytes
                freed += 1
            live += operation.nbytes
            peak = max(peak, live)
        return peak

    def _has_run(self, array: int, index: int, waited: int, tasks_ahead: float) -> bool:
        """Whether the last reader of an array has run when operation `index` is scheduled."""
        reader = self._operations[array].last_use
        is_done = self._operations[reader].end <= self._operations[index].start - tasks_ahead
        return reader < index and (reader <= waited or is_done)
