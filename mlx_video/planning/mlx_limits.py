"""MLX's own limits, of which a process has one set: held to the run that works, whichever that is."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import mlx.core as mx

from mlx_video.planning.budget import Budget, Machine
from mlx_video.planning.turns import end_in_turn, turn

Told = TypeVar("Told")
Value = TypeVar("Value")

WIRED_SHARE = 0.9
_SETTERS: dict[str, Callable[[int], int]] = {
    "memory": lambda nbytes: mx.set_memory_limit(nbytes),
    "cache": lambda nbytes: mx.set_cache_limit(nbytes),
    "wired": lambda nbytes: mx.set_wired_limit(nbytes),
}


@dataclass(frozen=True, slots=True, eq=False)
class MLXLimits:
    """Limits of one run, or of one conversion, in bytes.

    Several of a process may be under way, suspended in turns: each puts its limits in force when it goes on,
    and the last one that ends gives MLX back those of the process.

    Attributes:
        values: what is limited; of the other kinds the process's own limit is in force. "memory": above it
            MLX waits for running work before it schedules more. "cache": freed buffers that it keeps.
            "wired": what a GPU's system may not swap out.
    """

    values: dict[str, int]

    _in_force: ClassVar[MLXLimits | None] = None
    _of_process: ClassVar[dict[str, int]] = {}

    def hold(self) -> None:
        """Put these limits in force; costs nothing where they are."""
        if MLXLimits._in_force is self:
            return
        before = _set({**MLXLimits._of_process, **self.values})
        for kind, nbytes in before.items():
            MLXLimits._of_process.setdefault(kind, nbytes)
        MLXLimits._in_force = self

    def in_force(self, work: Generator[Told, None, Value]) -> Generator[Told, None, Value]:
        """Let work go on in turns, under these limits; they are released when it ends, or is left."""
        try:
            while True:
                with turn():
                    self.hold()
                    try:
                        told = next(work)
                    except StopIteration as end:
                        return end.value
                yield told
        finally:
            end_in_turn(lambda: self._leave(work))

    def _leave(self, work: Generator[object, None, object]) -> None:
        try:
            work.close()
        finally:
            self.release()

    def release(self) -> None:
        """Give MLX back the process's limits, unless another run has put its own in force since."""
        if MLXLimits._in_force is self:
            _set(MLXLimits._of_process)
            MLXLimits._of_process.clear()
            MLXLimits._in_force = None


def plan_limits(machine: Machine, budget: Budget, peak_bytes: int, cache_bytes: int) -> MLXLimits:
    """Choose the limits that hold MLX to a plan.

    Args:
        machine: where it runs.
        budget: of the run.
        peak_bytes: most bytes that the plan expects.
        cache_bytes: freed buffers to keep for later arrays; bounded on a GPU alone.
    """
    values = {"memory": budget.nbytes}
    if machine.on_gpu:
        values["cache"] = cache_bytes
    if machine.can_wire:
        values["wired"] = min(int(WIRED_SHARE * machine.working_set_bytes), peak_bytes)
    return MLXLimits(values)


def _set(values: dict[str, int]) -> dict[str, int]:
    """Set limits; returns those before."""
    return {kind: _SETTERS[kind](nbytes) for kind, nbytes in values.items()}
