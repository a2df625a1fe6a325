"""MagCache: measured ratios of what the blocks add tell beforehand which steps can do without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_video.errors import RequestError
from mlx_video.models.block_context import BlockContext
from mlx_video.sampling.guidance import Branch
from mlx_video.sampling.step_caches.measured import Measurement, nearest
from mlx_video.sampling.step_caches.residual import (
    BYTES_UNDER_WAY,
    KEPT_BYTES,
    MOST_ABSENT_STEPS,
    ResidualCache,
)
from mlx_video.sampling.step_caches.step_cache import (
    CacheFacts,
    CachePlan,
    is_cached,
    num_cached_passes,
    refuse_few_steps,
    refuse_two_velocities,
)
from mlx_video.sampling.step_caches.tables import (
    EXPERT_RATIOS,
    MAGNITUDES,
    USUAL_LIMITS,
    ExpertRatios,
    MagTable,
    model_key,
)

RUNS, SKIPS, ABSENT = "C", "s", "-"
MOST_STEPS_OFF = 1.5
"""Steps of a table over two experts by which these may swap elsewhere, rounding and resampling included."""


@dataclass(frozen=True, slots=True)
class MagLimits:
    """How far the blocks may be skipped.

    Attributes:
        error: that may add up.
        skips: in a row.
        retention: share of the run, from its start, in which every step runs.
    """

    error: float
    skips: int
    retention: float


@dataclass(frozen=True, slots=True)
class MagCache:
    """The cache as the user asks for it; None for what is published for the model.

    Attributes:
        error, skips, retention: see :class:`MagLimits`.
        table: measured ratios.
        keeps_last: whether the last step always runs.
        measured: on this model; the most fitting one counts in place of a published table.

    Source: Zehong-Ma/MagCache MagCache4Wan2.1/magcache_generate.py; arXiv:2506.09045.
    """

    error: float | None = None
    skips: int | None = None
    retention: float | None = None
    table: MagTable | None = None
    keeps_last: bool = True
    measured: tuple[Measurement, ...] = ()

    def settle(self, facts: CacheFacts) -> CachePlan:
        """See `step_cache.CacheMethod`."""
        refuse_few_steps(facts)
        refuse_two_velocities(facts, "magcache")
        measurement = None if self.table else nearest(self.measured, facts)
        table = self.table or MAGNITUDES.get(model_key(facts))
        if table is None and measurement is None:
            raise RequestError(
                "step_cache",
                "magcache: nobody has published ratios for this model. Measure them with python -m "
                "mlx_video.calibrate, or choose --step-cache easycache.",
            )
        usual = table.limits if table else USUAL_LIMITS
        limits = MagLimits(
            usual[0] if self.error is None else self.error,
            usual[1] if self.skips is None else self.skips,
            usual[2] if self.retention is None else self.retention,
        )
        apart = None if measurement or self.table else _ratios_apart(facts)
        plans = self._plan_branches(facts, apart or measurement or table, limits)
        told: tuple[str, ...] = ()
        if measurement:
            told = (f"Step cache magcache: ratios measured on this model ({measurement.describe()}).",)
        elif apart:
            told = (
                "Step cache magcache: the experts swap elsewhere than in the published run, so each has the "
                "ratios that were measured on it alone.",
            )
        return CachePlan(
            setting=(
                f"magcache, error {limits.error:g}, skips {limits.skips}, retention {limits.retention:g}, "
                f"plan {' '.join(dict.fromkeys(plans.values()))}"
            ),
            new_cache=lambda transformer, branch, _: (
                ResidualCache(PlannedDecision(plans[transformer, branch.name])) if is_cached(branch) else None
            ),
            notices=(*told, describe_plans(plans, facts)),
            stream_bytes=KEPT_BYTES * num_cached_passes(facts) + BYTES_UNDER_WAY,
            leaves_out=lambda transformer, branch, index: (
                is_cached(branch) and plans[transformer, branch.name][index] == SKIPS
            ),
        )

    def _plan_branches(
        self, facts: CacheFacts, source: MagTable | ExpertRatios | Measurement | None, limits: MagLimits
    ) -> dict[tuple[str, str], str]:
        """Transformer and branch → its plan, a letter for each step of the run."""
        plans = {}
        for transformer, guidance in facts.guidance.items():
            for branch in filter(is_cached, guidance.all_branches):
                active = [
                    facts.serves(transformer, step) and branch.name in _names(guidance.branches(step))
                    for step in facts.steps
                ]
                if isinstance(source, ExpertRatios):
                    own = source.of(transformer)
                    plan = _plan_expert(own, facts, transformer, limits, active, self.keeps_last)
                else:
                    ratios = _ratios_of(source, transformer, branch, facts)
                    plan = plan_skips(ratios, limits, active, keeps_last=self.keeps_last)
                plans[transformer, branch.name] = plan
        return plans


def _ratios_apart(facts: CacheFacts) -> ExpertRatios | None:
    """Ratios of each expert, for a run whose experts swap elsewhere than those of the table over both."""
    apart, count = EXPERT_RATIOS.get(model_key(facts)), facts.schedule.steps
    if apart is None or facts.expert_split is None:
        return None
    served = sum(facts.serves("high_noise", step) for step in facts.steps)
    swap = served * (len(MAGNITUDES[model_key(facts)].positive) - 1) / (count - 1)
    return None if abs(swap - apart.swap) <= MOST_STEPS_OFF else apart


def _plan_expert(
    ratios: Sequence[float],
    facts: CacheFacts,
    transformer: str,
    limits: MagLimits,
    active: Sequence[bool],
    keeps_last: bool,
) -> str:
    """The plan of one expert, in which its own steps are a run of their own."""
    served = [step.index for step in facts.steps if facts.serves(transformer, step)]
    keeps_last = keeps_last and served[-1:] == [facts.schedule.steps - 1]
    own = plan_skips(
        resample(ratios, len(served)), limits, [active[index] for index in served], keeps_last=keeps_last
    )
    plan = [ABSENT] * facts.schedule.steps
    for index, letter in zip(served, own, strict=True):
        plan[index] = letter
    return "".join(plan)


def _names(branches: Sequence[Branch]) -> set[str]:
    return {branch.name for branch in branches}


def _ratios_of(
    source: MagTable | Measurement | None, transformer: str, branch: Branch, facts: CacheFacts
) -> list[float]:
    """Ratios of a branch at each step of a run; 1 where a measured transformer does not serve."""
    if isinstance(source, Measurement):
        own = source.branches[transformer][branch.prompt].ratios
        served = [step.index for step in facts.steps if facts.serves(transformer, step)]
        ratios = [1.0] * facts.schedule.steps
        for index, ratio in zip(served, resample(own, len(served)), strict=True):
            ratios[index] = ratio
        return ratios
    assert source is not None
    published = source.positive if branch.prompt == "positive" else source.negative
    return resample(published, facts.schedule.steps)


def resample(ratios: Sequence[float], steps: int) -> list[float]:
    """Ratios for another number of steps, each the nearest one."""
    if steps < 2:
        return [*ratios[:steps]]
    # numpy rounds halves to even, as the published code does.
    places = np.round(np.arange(steps) * (len(ratios) - 1) / (steps - 1)).astype(int)
    return [ratios[place] for place in places]


def plan_skips(
    ratios: Sequence[float], limits: MagLimits, active: Sequence[bool], *, keeps_last: bool = False
) -> str:
    """Plan which steps run the blocks.

    The ratios of steps without the branch still count: what is kept grows old in them too.

    Args:
        ratios: of each step to the one before.
        limits: how far they may be skipped.
        active: whether the branch is part of a step.
        keeps_last: whether the last step always runs.

    Returns:
        A letter for each step: C runs, s skips, - is without the branch.
    """
    count, plan = len(ratios), ""
    ratio, skipped, error, absent = 1.0, 0, 0.0, math.inf
    for index, is_active in enumerate(active):
        ratio *= ratios[index]
        if not is_active:
            absent += 1
            plan += ABSENT
            continue
        skipped, error = skipped + 1, error + abs(1 - ratio)
        is_forced = index < math.floor(count * limits.retention) or absent > MOST_ABSENT_STEPS
        is_forced |= keeps_last and index == count - 1
        absent = 0
        if not is_forced and error < limits.error and skipped <= limits.skips:
            plan += SKIPS
        else:
            plan += RUNS
            ratio, skipped, error = 1.0, 0, 0.0
    return plan


def describe_plans(plans: dict[tuple[str, str], str], facts: CacheFacts) -> str:
    """The plan of a run in one line, experts joined, and what it saves."""
    lines: dict[str, str] = {}
    for (_, branch), plan in plans.items():
        joined = lines.get(branch, ABSENT * len(plan))
        lines[branch] = "".join(
            own if own != ABSENT else other for own, other in zip(plan, joined, strict=True)
        )
    letters = "".join(plans.values())
    run, forwards = letters.count(RUNS), letters.count(RUNS) + letters.count(SKIPS)
    shown = ", ".join(dict.fromkeys(lines.values()))
    return (
        f"Step cache magcache: {shown} (C runs the blocks, s skips them). {run} of {forwards} forwards run, "
        f"{forwards / max(run, 1):.2f} times fewer."
    )


class PlannedDecision:
    """Decides as planned.

    Args:
        plan: a letter for each step, see :func:`plan_skips`.
    """

    token_arrays: frozenset[str] = frozenset()

    def __init__(self, plan: str) -> None:
        self._plan = plan

    def skips(self, entering: mx.array, tokens: mx.array, context: BlockContext, *, is_forced: bool) -> bool:
        """See `residual.Decision`."""
        return not is_forced and self._plan[context.step.index] == SKIPS

    def state(self) -> dict[str, mx.array]:
        """Always empty: the plan is made anew."""
        return {}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See `residual.Decision`."""
        if state:
            raise ValueError(f"a state with {sorted(state)} cannot be one of magcache")
