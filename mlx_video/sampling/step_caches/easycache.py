"""EasyCache: what the network adds to the latents is used again while its estimated change stays small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import Branch
from mlx_video.sampling.step_caches.residual import MOST_ABSENT_STEPS, read_number
from mlx_video.sampling.step_caches.step_cache import CacheFacts, CachePlan, is_cached, refuse_few_steps

FIRST_STEPS = 7
THRESHOLD = 0.05
THRESHOLDS = {"wan2.2-t2v-a14b": 0.06, "wan2.2-i2v-a14b": 0.06}


@dataclass(frozen=True, slots=True)
class EasyCache:
    """The cache as the user asks for it.

    Attributes:
        threshold: relative change that may add up; None for the model's.
        first_steps: always computed.

    Source: H-EmbodVis/EasyCache easycache_generate.py for Wan2.1 and Wan2.2; arXiv:2507.02860.
    """

    threshold: float | None = None
    first_steps: int = FIRST_STEPS

    def settle(self, facts: CacheFacts) -> CachePlan:
        """See `step_cache.CacheMethod`."""
        refuse_few_steps(facts)
        threshold = THRESHOLDS.get(facts.variant, THRESHOLD) if self.threshold is None else self.threshold
        return CachePlan(
            setting=f"easycache, threshold {threshold:g}, first steps {self.first_steps}",
            new_prediction_cache=lambda _: EasyPredictions(threshold, self.first_steps),
        )


class EasyPredictions:
    """Differences between velocities and the latents they were made for, and how fast they change.

    The prompt's branch decides for all of a step.

    Args:
        threshold: relative change that may add up.
        first_steps: always computed.
    """

    def __init__(self, threshold: float, first_steps: int) -> None:
        self._threshold = threshold
        self._first_steps = first_steps
        # "latents" of the last step and "latents_before"; the "velocity" that was computed last.
        self._arrays: dict[str, mx.array] = {}
        self._rate: np.float32 | None = None
        self._change = np.float32(0)
        self._differences: dict[str, mx.array] = {}
        self._last_steps: dict[str, int] = {}

    def predict(
        self,
        latents: mx.array,
        step: Step,
        branches: Sequence[Branch],
        compute: Callable[[Sequence[Branch]], list[mx.array]],
    ) -> list[mx.array]:
        """See `step_cache.PredictionCache`."""
        if not branches:
            return compute(branches)
        first = branches[0]
        is_skipped = self._decide(latents, step) and self._is_fresh(first, step)
        due = [one for one in branches if not is_skipped or not self._is_fresh(one, step)]
        made = dict(zip((one.name for one in due), compute(due), strict=True))
        velocities = [
            made[one.name] if one.name in made else latents + self._differences[one.name] for one in branches
        ]
        if not is_skipped:
            self._learn(latents, made[first.name])
        kept = {one.name: made[one.name] - latents for one in due if is_cached(one)}
        self._differences |= kept
        self._last_steps |= {one.name: step.index for one in branches}
        before = {"latents_before": self._arrays["latents"]} if "latents" in self._arrays else {}
        self._arrays |= {**before, "latents": latents}
        mx.eval(velocities, self._arrays, kept)  # else they hold all that they are made from
        return velocities

    def _decide(self, latents: mx.array, step: Step) -> bool:
        """Whether the change since the last computed step is small enough still."""
        is_forced = step.index < self._first_steps or step.index == step.count - 1
        if is_forced or self._rate is None:
            return False
        velocity, before = self._arrays["velocity"], self._arrays["latents"]
        moved = mx.mean(mx.abs(latents - before)) / mx.mean(mx.abs(velocity))
        self._change = np.float32(self._change + self._rate * np.float32(read_number(moved)))
        return bool(self._change < self._threshold)

    def _learn(self, latents: mx.array, velocity: mx.array) -> None:
        """Take the rate at which velocities follow latents from a computed step."""
        self._change = np.float32(0)
        before = self._arrays
        if {"latents", "latents_before", "velocity"} <= before.keys():
            moved = mx.mean(mx.abs(before["latents"] - before["latents_before"]))
            changed = mx.mean(mx.abs(velocity - before["velocity"]))
            self._rate = np.float32(read_number(changed / moved))
        self._arrays = before | {"velocity": velocity}

    def _is_fresh(self, branch: Branch, step: Step) -> bool:
        """Whether a branch has a difference that was in use a step or two ago."""
        last = self._last_steps.get(branch.name, -1)
        return branch.name in self._differences and step.index - last - 1 <= MOST_ABSENT_STEPS

    def state(self) -> dict[str, mx.array]:
        """See `step_cache.PredictionCache`."""
        state = dict(self._arrays)
        for name, difference in self._differences.items():
            state[f"difference.{name}"] = difference
        for name, index in self._last_steps.items():
            state[f"last_step.{name}"] = mx.array([index], mx.int32)
        if self._rate is not None:
            state["rate"] = mx.array(np.array([self._rate, self._change]))
        return state

    def restore(self, state: dict[str, mx.array]) -> None:
        """See `step_cache.PredictionCache`."""
        own = dict(state)
        if not {"latents", "velocity"} <= own.keys():
            raise ValueError(f"a state with {sorted(state)} cannot be one of easycache")
        if "rate" in own:
            self._rate, self._change = np.array(own.pop("rate"))
        for name in state:
            kind, _, branch = name.partition(".")
            if kind == "difference":
                self._differences[branch] = own.pop(name)
            elif kind == "last_step":
                self._last_steps[branch] = int(read_number(own.pop(name)))
        self._arrays = own
