"""Ratios of MagCache that were measured on a model, and the probe that measures them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_video.models.block_context import BlockContext, StepCache, TimePath
from mlx_video.sampling.guidance import Branch
from mlx_video.sampling.step_caches.residual import read_number
from mlx_video.sampling.step_caches.step_cache import CacheFacts, CachePlan, is_cached, num_cached_passes

_BYTES = 3 * 4
"""Of a number of the residual stream: what entered the blocks, this step's residual and the last one's."""


@dataclass(frozen=True, slots=True)
class BranchRatios:
    """One branch of one transformer, at each of the steps that it serves.

    Attributes:
        ratios: mean over tokens of the length of what the blocks add, by that in the step before; the first
            is 1.
        deviations: of the ratios over tokens; the first is 0.
        distances: mean over tokens of 1 - cosine to the step before; the first is 0.
    """

    ratios: tuple[float, ...]
    deviations: tuple[float, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Ratios of one model at one size and number of steps.

    Attributes:
        pixels: of a frame.
        has_image: whether an image was given.
        steps: of the run.
        shift: of its noise levels.
        prompts: how many runs it is the mean of.
        branches: name of a transformer → "positive" or "negative" → its ratios.
    """

    pixels: int
    has_image: bool
    steps: int
    shift: float
    prompts: int
    branches: Mapping[str, Mapping[str, BranchRatios]]

    @property
    def key(self) -> tuple[object, ...]:
        """What a new measurement takes the place of."""
        return self.pixels, self.has_image, self.steps, self.shift

    def distance(self, facts: CacheFacts) -> tuple[bool, float, float]:
        """How far it is from a run: in images, size and steps."""
        size = abs(math.log(max(facts.pixels, 1) / self.pixels))
        return self.has_image != facts.has_image, size, abs(math.log(facts.schedule.steps / self.steps))

    def serves(self, facts: CacheFacts) -> bool:
        """Whether it holds every branch of a run."""
        return all(
            branch.prompt in self.branches.get(transformer, {})
            for transformer, guidance in facts.guidance.items()
            for branch in filter(is_cached, guidance.all_branches)
        )

    def describe(self) -> str:
        """What it was measured on, in words."""
        return f"{self.pixels} pixels a frame, {self.steps} steps, prompts: {self.prompts}"


def nearest(measured: Sequence[Measurement], facts: CacheFacts) -> Measurement | None:
    """The measurement that is most like a run; None where none holds all of its branches."""
    fitting = [one for one in measured if one.serves(facts)]
    return min(fitting, key=lambda one: one.distance(facts), default=None)


class RatioProbe:
    """Runs the blocks in every step, and measures what they add."""

    decides_after = 0
    token_arrays: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._entering: mx.array | None = None
        self._before: mx.array | None = None
        self.rows: list[tuple[float, float, float]] = []

    def enter(self, tokens: mx.array) -> None:
        """See `models.block_context.StepCache`."""
        self._entering = tokens

    def reuse(self, tokens: mx.array, context: BlockContext) -> mx.array | None:
        """See `models.block_context.StepCache`: never."""
        return None

    def store(self, tokens: mx.array, context: BlockContext) -> None:
        """See `models.block_context.StepCache`."""
        assert self._entering is not None
        residual = tokens.astype(mx.float32) - self._entering
        self._entering = None
        self.rows.append((1.0, 0.0, 0.0) if self._before is None else compare(residual, self._before))
        self._before = residual
        mx.eval(residual)  # else it holds all that it is made from

    def state(self) -> dict[str, mx.array]:
        """Always empty: a measurement is made in one go."""
        return {}

    def restore(self, state: dict[str, mx.array]) -> None:
        """See `models.block_context.StepCache`."""
        raise ValueError("a measurement does not go on")


def compare(now: mx.array, before: mx.array) -> tuple[float, float, float]:
    """Mean ratio of the lengths of some vectors, its deviation, and their mean distance in angle.

    Args:
        now, before: [L, dim], float32.
    """
    now_length, before_length = (mx.linalg.norm(one, axis=-1) for one in (now, before))
    ratios = now_length / before_length
    cosines = mx.sum(now * before, axis=-1) / (now_length * before_length)
    return read_number(mx.mean(ratios)), read_number(mx.std(ratios)), read_number(1 - mx.mean(cosines))


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of one run.

    Attributes:
        made: (transformer, prompt) → its probe.
    """

    made: dict[tuple[str, str], RatioProbe] = field(default_factory=dict)

    def plan(self, facts: CacheFacts) -> CachePlan:
        """A step cache that only measures."""
        bytes_kept = _BYTES * num_cached_passes(facts)
        return CachePlan(
            "measured",
            new_cache=self._new_probe,
            stream_bytes=bytes_kept,
            leaves_out=lambda transformer, branch, index: False,
        )

    def _new_probe(self, transformer: str, branch: Branch, _: TimePath) -> StepCache | None:
        if not is_cached(branch):
            return None
        return self.made.setdefault((transformer, branch.prompt), RatioProbe())


def average(runs: Sequence[Probes]) -> dict[str, dict[str, BranchRatios]]:
    """Means over runs of equal steps: name of a transformer → prompt → ratios."""
    branches: dict[str, dict[str, BranchRatios]] = {}
    for transformer, prompt in runs[0].made:
        rows = [run.made[transformer, prompt].rows for run in runs]
        means = np.mean(np.array(rows, np.float64), axis=0)  # [steps, 3]
        ratios, deviations, distances = (tuple(column.tolist()) for column in means.T)
        branches.setdefault(transformer, {})[prompt] = BranchRatios(ratios, deviations, distances)
    return branches
