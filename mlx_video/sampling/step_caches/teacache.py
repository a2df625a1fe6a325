"""TeaCache: the change of the timestep's features tells when the blocks must run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_video.errors import RequestError
from mlx_video.models.block_context import BlockContext, Step, StepCache, TimeFeatures, TimePath
from mlx_video.sampling.guidance import Branch
from mlx_video.sampling.step_caches.residual import BYTES_UNDER_WAY, KEPT_BYTES, ResidualCache, read_number
from mlx_video.sampling.step_caches.step_cache import (
    CacheFacts,
    CachePlan,
    is_cached,
    num_cached_passes,
    refuse_few_steps,
    refuse_two_velocities,
)
from mlx_video.sampling.step_caches.tables import model_key

TeaMode = Literal["ret", "non-ret"]
Coefficients = tuple[float, ...]
"""Of a polynomial, the highest degree first: change of the features → change of the result."""

RETAINED_STEPS = 5
# Source: deepbeepmeep/Wan2GP, which tries these for the speed that its user asks for.
TRIED_THRESHOLDS = tuple(hundredths / 100 for hundredths in range(1, 61))


@dataclass(frozen=True, slots=True)
class TeaNumbers:
    """What is published for one model.

    Attributes:
        coefficients: of each mode that is published.
        mode: that its authors rate higher.
        threshold: of this mode, for about half of the time.
    """

    coefficients: Mapping[TeaMode, Coefficients]
    mode: TeaMode
    threshold: float


# Source: ali-vilab/TeaCache TeaCache4Wan2.1/teacache_generate.py; of the 5B, ModelTC/LightX2V
# configs/caching/teacache/wan_ti2v_tea.json.
NUMBERS: Mapping[str, TeaNumbers] = MappingProxyType(
    {
        "t2v-1.3b": TeaNumbers(
            {
                "ret": (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02),
                "non-ret": (2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01),
            },
            mode="non-ret",
            threshold=0.08,
        ),
        "t2v-14b": TeaNumbers(
            {
                "ret": (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01),
                "non-ret": (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
            },
            mode="ret",
            threshold=0.1,
        ),
        "i2v-14b-480p": TeaNumbers(
            {
                "ret": (2.57151496e05, -3.54229917e04, 1.40286849e03, -1.35890334e01, 1.32517977e-01),
                "non-ret": (-3.02331670e02, 2.23948934e02, -5.25463970e01, 5.87348440e00, -2.01973289e-01),
            },
            mode="ret",
            threshold=0.2,
        ),
        "i2v-14b-720p": TeaNumbers(
            {
                "ret": (8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02),
                "non-ret": (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
            },
            mode="ret",
            threshold=0.2,
        ),
        "ti2v-5b": TeaNumbers(
            {
                "non-ret": (
                    1.57472669e05,
                    -1.15702395e05,
                    3.10761669e04,
                    -3.83116651e03,
                    2.21608777e02,
                    -4.81179567e00,
                )
            },
            mode="non-ret",
            threshold=0.26,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class TeaCache:
    """The cache as the user asks for it.

    Attributes:
        threshold: change that may add up before the blocks run again; None for the model's.
        mode: "ret" runs the first five steps and watches the modulation, "non-ret" the first and the last and
            watches the embedding; None for the one that the authors rate higher.
        coefficients: in place of the published ones.
        speedup: steps for each one in which the blocks run; the threshold that comes nearest is taken.

    Source: ali-vilab/TeaCache TeaCache4Wan2.1/teacache_generate.py; arXiv:2411.19108.
    """

    threshold: float | None = None
    mode: TeaMode | None = None
    coefficients: Coefficients | None = None
    speedup: float | None = None

    def settle(self, facts: CacheFacts) -> CachePlan:
        """See `step_cache.CacheMethod`."""
        refuse_few_steps(facts)
        refuse_two_velocities(facts, "teacache")
        rule, published = self._find_rule(facts)
        if self.speedup is not None and self.threshold is not None:
            raise RequestError(
                "teacache_speedup", "beside --step-cache-threshold: both say how much is skipped. Give one."
            )
        threshold = published if self.threshold is None else self.threshold
        if threshold is None and self.speedup is None:
            raise RequestError(
                "step_cache_threshold", "missing: teacache needs one beside coefficients of your own."
            )
        chosen = f"threshold {threshold:g}" if self.speedup is None else f"speed-up {self.speedup:g}"

        def new_cache(transformer: str, branch: Branch, time_path: TimePath) -> StepCache | None:
            if not is_cached(branch):
                return None
            if self.speedup is None:
                assert threshold is not None
                return ResidualCache(TeaDecision(rule, threshold))
            served = [step for step in facts.steps if facts.serves(transformer, step)]
            return ResidualCache(TeaDecision(rule, find_threshold(rule, served, time_path, self.speedup)))

        return CachePlan(
            setting=f"teacache, {chosen}, {rule.mode}, {','.join(map(str, rule.coefficients))}",
            new_cache=new_cache,
            stream_bytes=KEPT_BYTES * num_cached_passes(facts) + BYTES_UNDER_WAY,
        )

    def _find_rule(self, facts: CacheFacts) -> tuple[TeaRule, float | None]:
        """The rule, and the threshold that is published for it."""
        known = NUMBERS.get(model_key(facts).removesuffix("-image"))
        mode = self.mode or (known.mode if known else "non-ret")
        coefficients = self.coefficients or (known.coefficients.get(mode) if known else None)
        if coefficients is None:
            raise RequestError("step_cache", _describe_lack(facts, known))
        published = known.threshold if known and not self.coefficients else None
        return TeaRule(mode, coefficients), published


def _describe_lack(facts: CacheFacts, known: TeaNumbers | None) -> str:
    if known:
        return f"teacache: for this model only mode {known.mode} is published. Choose it."
    if facts.expert_split:
        return (
            "teacache: nobody has published coefficients for two experts, and those of other models make "
            "unstable videos. Choose --step-cache magcache, or give --teacache-coefficients."
        )
    return (
        "teacache: nobody has published coefficients for this model. Choose --step-cache easycache, or give "
        "--teacache-coefficients."
    )


@dataclass(frozen=True, slots=True)
class TeaRule:
    """Estimates from the features of the timestep how far the result of a step is from the last one's.

    Attributes:
        mode: see :class:`TeaCache`.
        coefficients: of the mode.
    """

    mode: TeaMode
    coefficients: Coefficients

    def driver(self, time: TimeFeatures) -> mx.array:
        """The features that are watched, [U, ...]."""
        return time.modulation if self.mode == "ret" else time.embedding

    def may_skip(self, step: Step) -> bool:
        """Whether a step is none of those that always run."""
        first, last = (RETAINED_STEPS, step.count) if self.mode == "ret" else (1, step.count - 1)
        return first <= step.index < last

    def estimate(self, now: mx.array, before: mx.array, time: TimeFeatures) -> float:
        """Change of the result, from the features of a step and of the one before."""
        return float(np.polyval(self.coefficients, driver_change(now, before, time)))


def add_up(sum_before: np.float32, change: float, threshold: float) -> tuple[np.float32, bool]:
    """Add the change of a step.

    Returns:
        What has added up then, and whether it is small enough to skip the blocks.
    """
    added = np.float32(sum_before + change)
    return (added, True) if added < threshold else (np.float32(0), False)


def find_threshold(rule: TeaRule, steps: Sequence[Step], time_path: TimePath, speedup: float) -> float:
    """The threshold under which a transformer's steps come nearest to a speed; no block runs for it.

    Args:
        rule: estimates the changes.
        steps: that the transformer serves.
        time_path: features of a timestep.
        speedup: steps for each one in which the blocks run.
    """
    times = [time_path(step.timestep) for step in steps]
    drivers = [rule.driver(time) for time in times]
    changes = [
        rule.estimate(drivers[place], drivers[place - 1], times[place])
        if place and rule.may_skip(step)
        else None
        for place, step in enumerate(steps)
    ]

    def distance(threshold: float) -> float:
        return abs(len(steps) / max(1, _count_computed(changes, threshold)) - speedup)

    return min(TRIED_THRESHOLDS, key=distance)


def _count_computed(changes: Sequence[float | None], threshold: float) -> int:
    """Steps in which the blocks run, where None stands for a step that always does."""
    count, added = 0, np.float32(0)
    for change in changes:
        added, is_skipped = (np.float32(0), False) if change is None else add_up(added, change, threshold)
        count += not is_skipped
    return count


class TeaDecision:
    """Adds up the estimated change of the result since the blocks ran last."""

    token_arrays: frozenset[str] = frozenset()

    def __init__(self, rule: TeaRule, threshold: float) -> None:
        self._rule = rule
        self._threshold = threshold
        self._driver: mx.array | None = None
        self._change = np.float32(0)

    def skips(self, entering: mx.array, tokens: mx.array, context: BlockContext, *, is_forced: bool) -> bool:
        """See `residual.Decision`."""
        before, driver = self._driver, self._rule.driver(context.time)
        self._driver = driver
        is_comparable = before is not None and before.shape == driver.shape
        if is_forced or before is None or not is_comparable or not self._rule.may_skip(context.step):
            self._change = np.float32(0)
            return False
        change = self._rule.estimate(driver, before, context.time)
        self._change, is_skipped = add_up(self._change, change, self._threshold)
        return is_skipped

    def state(self) -> dict[str, mx.array]:
        """See `residual.Decision`."""
        if self._driver is None:
            return {}
        return {"driver": self._driver, "change": mx.array(np.array([self._change]))}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See `residual.Decision`."""
        if sorted(state) != ["change", "driver"]:
            raise ValueError(f"a state with {sorted(state)} cannot be one of teacache")
        self._driver = state["driver"]
        self._change = np.float32(read_number(state["change"]))


def driver_change(now: mx.array, before: mx.array, time: TimeFeatures) -> float:
    """Mean change of the features over all tokens, by their mean size.

    Args:
        now, before: [U, ...], features of the distinct timesteps.
        time: tells how many tokens each is of.
    """
    counts = np.zeros(len(now), np.float32)
    for span in time.spans:
        counts[span.row] += span.stop - span.start
    axes = tuple(range(1, now.ndim))
    weights = mx.array(counts)
    changed = mx.sum(weights * mx.mean(mx.abs(now - before), axis=axes))
    size = mx.sum(weights * mx.mean(mx.abs(before), axis=axes))
    return read_number(changed / size)
