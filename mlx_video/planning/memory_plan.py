"""What stays in memory in each stage of a run, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_video.models.peak import Peak
from mlx_video.planning.budget import GB, LEAST_CACHE_BYTES, Budget
from mlx_video.planning.choices import KeptNetwork, MemoryChoices
from mlx_video.planning.memory_task import Host
from mlx_video.tables import html_lines, html_table

_PLAN_HEAD = ("stage", "peak", "in memory")


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a run.

    Attributes:
        name: as in the events.
        holds: what is in memory, in words.
        peak: of MLX memory.
        predicted_bytes: its value under the budget.
        read_bytes: read from files again in every step.
    """

    name: str
    holds: str
    peak: Peak
    predicted_bytes: int
    read_bytes: int = 0

    def fits(self, budget: Budget) -> bool:
        """Whether the budget is enough."""
        return self.peak.needed <= budget.nbytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A run's memory: the choices, and what each stage will take.

    Attributes:
        host: what it was planned for.
        choices: what the run keeps and what it streams or tiles.
        stages: in the order of the run.
        scratch_bytes: of the largest temporary file, in which the VAE's tiles wait.
        needs_tiles: whether the VAE could not work on whole frames.
        notices: what was adjusted or chosen for the user, as a run would say it.
        kept: the networks that stay in memory for the next run.
        reused: titles of the networks that are in memory already.
    """

    host: Host
    choices: MemoryChoices
    stages: tuple[StagePlan, ...]
    scratch_bytes: int = 0
    needs_tiles: bool = False
    notices: tuple[str, ...] = ()
    kept: tuple[KeptNetwork, ...] = ()
    reused: tuple[str, ...] = ()

    @property
    def predicted(self) -> dict[str, int]:
        """Stage → predicted peak in bytes."""
        return {stage.name: stage.predicted_bytes for stage in self.stages}

    @property
    def cache_bytes(self) -> int:
        """Freed buffers worth keeping for later arrays: half of a forward's, or what streaming leaves."""
        streamed = [stage.predicted_bytes for stage in self.stages if stage.read_bytes]
        if streamed:
            # Less would have MLX take hundreds of megabytes anew for every block.
            return max(LEAST_CACHE_BYTES, self.host.budget.nbytes - max(streamed))
        arrays = max((stage.peak.usual - stage.peak.held for stage in self.stages), default=0)
        return max(LEAST_CACHE_BYTES, arrays // 2)

    @property
    def misfits(self) -> tuple[StagePlan, ...]:
        """The stages that need more than the budget."""
        return tuple(stage for stage in self.stages if not stage.fits(self.host.budget))

    def __repr__(self) -> str:
        peaks = ", ".join(f"{name} {peak}" for name, peak, _ in self._rows())
        return f"MemoryPlan({peaks}; budget {self.host.budget.nbytes / GB:.2f} GB)"

    def __str__(self) -> str:
        """A table for people."""
        rows = [_PLAN_HEAD, *self._rows()]
        table = (f"{name:8} {peak:>10}  {holds}" for name, peak, holds in rows)
        return "\n".join([*self._lines_above(), *table, *self._lines_below()])

    def _repr_html_(self) -> str:
        above, below = html_lines(self._lines_above()), html_lines(self._lines_below())
        return f"{above}{html_table(self._rows(), _PLAN_HEAD)}{below}"

    def _rows(self) -> list[tuple[str, str, str]]:
        return [(stage.name, f"{stage.predicted_bytes / GB:.2f} GB", stage.holds) for stage in self.stages]

    def _lines_above(self) -> Iterator[str]:
        machine, budget = self.host.machine, self.host.budget
        yield from self.notices
        yield f"machine: {machine.name}, {machine.memory_bytes / GB:.1f} GB"
        yield f"budget: {budget.nbytes / GB:.2f} GB ({budget.reason})"

    def _lines_below(self) -> Iterator[str]:
        read = sum(stage.read_bytes for stage in self.stages)
        yield f"read from disk in every step: {read / GB:.2f} GB"
        if self.kept:
            titles, nbytes = ", ".join(one.title for one in self.kept), sum(one.nbytes for one in self.kept)
            yield f"kept for the next run: {titles} ({nbytes / GB:.2f} GB)"
        if self.scratch_bytes:
            yield f"temporary file of tiles: {self.scratch_bytes / GB:.2f} GB"
