"""The time that a run still takes: from its own steps, and from earlier runs of the same model and size."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mlx_video.events import (
    Event,
    FramesDecoded,
    StageFinished,
    StageStarted,
    StepFinished,
    TilesDecoded,
    WorkPlanned,
)
from mlx_video.progress.remembered_rates import RememberedRates
from mlx_video.progress.stage_times import PIXEL, DecodingTimes, StepTime, StepTimes

Clock = Callable[[], float]
"""Gives seconds that only grow."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time that is left.

    Attributes:
        seconds: to the end of what is known.
        without: stages behind that of which nothing is known.
    """

    seconds: float
    without: tuple[str, ...] = ()


class TimeLeft:
    """Follows the events of a command or call, and tells at any time how long its run still takes.

    Args:
        clock: tells the time.
        rates: of earlier runs, to which those of this one are added.
    """

    def __init__(self, clock: Clock = time.monotonic, rates: RememberedRates | None = None) -> None:
        self._clock = clock
        self._rates = rates or RememberedRates()
        self._run: RunTimes | None = None

    def observe(self, event: Event) -> None:
        """Take note of what happened."""
        if isinstance(event, WorkPlanned):
            self._run = RunTimes(event, self._rates, self._clock())
        elif self._run:
            self._run.observe(event, self._clock())

    @property
    def follows_a_run(self) -> bool:
        """Whether a run was planned."""
        return self._run is not None

    def estimate(self) -> Estimate | None:
        """The time to the end of the run, and of those like it that follow; None where nothing is known."""
        return self._run.estimate(self._clock()) if self._run else None


class RunTimes:
    """Times of one run; every time is passed in.

    Args:
        work: of the run.
        rates: of earlier runs.
        now: when it begins.
    """

    def __init__(self, work: WorkPlanned, rates: RememberedRates, now: float) -> None:
        self._work = work
        self._rates = rates
        self._earlier = rates.find(work.speed_key)
        self._pixel = rates.find(work.decode_key).get(PIXEL)
        self._steps = StepTimes(self._earlier, is_certain=work.weights_are_certain)
        self._next_step = work.first_step
        self._ahead = [*work.stages]
        self._stage = ""
        self._began = self._stage_began = self._step_began = now
        self._decoding = DecodingTimes()

    def observe(self, event: Event, now: float) -> None:
        """Take note of what happened."""
        match event:
            case StageStarted(stage):
                self._stage, self._stage_began, self._step_began = stage, now, now
                if stage in self._ahead:
                    del self._ahead[: self._ahead.index(stage) + 1]
            case StepFinished(index) if index < len(self._work.step_weights):
                loads = index in self._work.loading_steps
                self._steps.add(StepTime(now - self._step_began, self._work.step_weights[index], loads))
                self._next_step, self._step_began = index + 1, now
            case FramesDecoded() | TilesDecoded():
                self._decoding.add(event, now - self._stage_began)
            case StageFinished(stage) if stage == self._stage:
                self._remember(stage, now - self._stage_began)
                self._stage = ""

    def _remember(self, stage: str, seconds: float) -> None:
        if stage == "denoise":
            if self._steps.measured:
                self._rates.remember(self._work.speed_key, self._steps.measured)
        elif stage == "decode":
            self._pixel = seconds / self._work.decoded_pixels
            self._rates.remember(self._work.decode_key, {PIXEL: self._pixel})
        else:
            self._rates.remember(self._work.speed_key, {stage: seconds})

    def estimate(self, now: float) -> Estimate | None:
        """The time left at this moment; None where nothing is known."""
        left = self._left_in_stage(now)
        ahead = {stage: self._whole(stage) for stage in self._ahead}
        if left is None or ahead.get("denoise", 0.0) is None:
            return None
        seconds = left + sum(whole for whole in ahead.values() if whole is not None)
        if self._work.runs_after:
            seconds += self._work.runs_after * (now - self._began + seconds)
        return Estimate(seconds, tuple(stage for stage, whole in ahead.items() if whole is None))

    def _left_in_stage(self, now: float) -> float | None:
        spent = now - self._stage_began
        if not self._stage:
            return 0.0
        if self._stage == "denoise":
            return self._left_of_steps(now - self._step_began)
        whole = self._whole(self._stage)
        if self._stage == "decode":
            whole = self._decoding.whole(whole)
        return None if whole is None else max(0.0, whole - spent)

    def _whole(self, stage: str) -> float | None:
        """Time of a stage that is ahead; one before the steps that is not known yet counts as nothing."""
        if stage == "denoise":
            return self._left_of_steps(0.0)
        if stage == "decode":
            return None if self._pixel is None else self._pixel * self._work.decoded_pixels
        return self._earlier.get(stage, 0.0)

    def _left_of_steps(self, spent: float) -> float | None:
        """Time of the steps that are left, of the next of which some is spent."""
        forward, loading, first = self._steps.forward, self._steps.loading, self._next_step
        if forward is None:
            return None
        costs = [
            weight * forward + (loading if index in self._work.loading_steps else 0.0)
            for index, weight in enumerate(self._work.step_weights[first:], first)
        ]
        return sum(costs) - min(spent, costs[0]) if costs else 0.0
