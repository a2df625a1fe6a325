"""The time left: from the steps of a run, from earlier runs, and to the end of the decoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.events import (
    FramesDecoded,
    StageFinished,
    StageStarted,
    StepFinished,
    TilesDecoded,
    WorkPlanned,
)
from mlx_video.progress.remembered_rates import RememberedRates
from mlx_video.progress.time_left import Estimate, TimeLeft
from tests.progress.clock import FakeClock

WORK = WorkPlanned(
    stages=("text", "image", "denoise", "decode"),
    step_weights=(2.0,) * 5,
    first_step=0,
    loading_steps=(0,),
    weights_are_certain=True,
    decoded_pixels=1000,
    speed_key="a model at one size",
    decode_key="its VAE",
)


class Run:
    """A run whose stages and steps take the seconds that they are told to."""

    def __init__(self, folder: Path, work: WorkPlanned = WORK) -> None:
        self.clock = FakeClock()
        self.left = TimeLeft(self.clock, RememberedRates(folder / "rates.json"))
        self.work = work
        self.left.observe(work)

    def start(self, stage: str) -> None:
        self.left.observe(StageStarted(stage))

    def finish(self, stage: str, seconds: float = 0.0) -> None:
        self.clock.wait(seconds)
        self.left.observe(StageFinished(stage, seconds, 1))

    def step(self, index: int, seconds: float) -> float | None:
        self.clock.wait(seconds)
        self.left.observe(StepFinished(index, len(self.work.step_weights), 500.0, 0.0, mx.zeros(1)))
        return self.seconds()

    def seconds(self) -> float | None:
        estimate = self.left.estimate()
        return estimate and estimate.seconds

    def make(self, *steps: float, text: float = 4.0, decode: float = 30.0) -> None:
        """Go through all of it."""
        self.start("text")
        self.finish("text", text)
        self.start("denoise")
        for index, seconds in enumerate(steps, self.work.first_step):
            self.step(index, seconds)
        self.finish("denoise")
        self.start("decode")
        self.finish("decode", decode)


def test_a_first_run_knows_nothing_before_its_first_step(tmp_path: Path):
    run = Run(tmp_path)
    assert run.left.estimate() is None
    run.start("text")
    assert run.left.estimate() is None


def test_the_first_step_gives_an_estimate_that_names_what_it_leaves_out(tmp_path: Path):
    run = Run(tmp_path)
    run.start("denoise")
    run.step(0, 10.0)
    assert run.left.estimate() == Estimate(40.0, without=("decode",))


def test_later_steps_count_and_not_the_first_which_loads(tmp_path: Path):
    run = Run(tmp_path)
    run.start("denoise")
    run.step(0, 25.0)
    assert run.step(1, 10.0) == 30.0
    assert run.step(2, 10.0) == 20.0


def test_one_disturbed_step_changes_nothing(tmp_path: Path):
    run = Run(tmp_path)
    run.start("denoise")
    for index, seconds in enumerate((10.0, 10.0, 90.0)):
        run.step(index, seconds)
    assert run.step(3, 10.0) == 10.0


def test_where_a_cache_decides_on_the_way_the_mean_counts(tmp_path: Path):
    run = Run(tmp_path, replace(WORK, weights_are_certain=False))
    run.start("denoise")
    for index, seconds in enumerate((10.0, 1.0, 1.0)):
        run.step(index, seconds)
    assert run.step(3, 10.0) == pytest.approx(4.0)


def test_steps_count_by_their_forwards(tmp_path: Path):
    run = Run(tmp_path, replace(WORK, step_weights=(2.0, 2.0, 1.0, 0.0, 1.0)))
    run.start("denoise")
    run.step(0, 12.0)
    assert run.step(1, 8.0) == pytest.approx(8.0)
    assert run.step(2, 4.0) == pytest.approx(4.0)
    assert run.step(3, 0.1) == pytest.approx(4.0)


def test_loading_the_second_expert_takes_what_loading_the_first_took(tmp_path: Path):
    run = Run(tmp_path, replace(WORK, loading_steps=(0, 3)))
    run.start("denoise")
    run.step(0, 17.0)
    assert run.step(1, 10.0) == pytest.approx(30.0 + 7.0)


def test_time_goes_by_within_a_step_but_not_beyond_it(tmp_path: Path):
    run = Run(tmp_path)
    run.start("denoise")
    run.step(0, 10.0)
    run.step(1, 10.0)
    run.clock.wait(4.0)
    assert run.seconds() == 26.0
    run.clock.wait(100.0)
    assert run.seconds() == 20.0


def test_a_run_that_goes_on_counts_the_steps_that_are_left(tmp_path: Path):
    run = Run(tmp_path, replace(WORK, first_step=3, loading_steps=(3,)))
    run.start("denoise")
    assert run.step(3, 10.0) == 10.0


def test_a_second_run_knows_everything_from_its_begin(tmp_path: Path):
    Run(tmp_path).make(15.0, 10.0, 10.0, 10.0, 10.0)
    run = Run(tmp_path)
    assert run.left.estimate() == Estimate(4.0 + 5.0 + 50.0 + 30.0)
    run.start("text")
    run.finish("text", 4.0)
    run.start("denoise")
    assert run.seconds() == 5.0 + 50.0 + 30.0
    # The first step of a known model says less than the runs before.
    assert run.step(0, 30.0) == 40.0 + 30.0
    # Its second one counts: this run is slower.
    assert run.step(1, 20.0) == 60.0 + 30.0


def test_other_steps_and_another_size_of_the_video(tmp_path: Path):
    Run(tmp_path).make(15.0, 10.0, 10.0, 10.0, 10.0)
    longer = Run(tmp_path, replace(WORK, step_weights=(1.0,) * 20))
    assert longer.seconds() == 4.0 + 5.0 + 100.0 + 30.0
    larger = Run(tmp_path, replace(WORK, speed_key="another size", decoded_pixels=3000))
    assert larger.left.estimate() is None
    larger.start("denoise")
    assert larger.step(0, 40.0) == 160.0 + 90.0


def test_decoding_goes_by_what_is_known_and_then_by_its_own_frames(tmp_path: Path):
    Run(tmp_path).make(15.0, 10.0, 10.0, 10.0, 10.0)
    run = Run(tmp_path, replace(WORK, stages=("decode",), step_weights=()))
    assert run.seconds() == 30.0
    run.start("decode")
    run.clock.wait(10.0)
    assert run.seconds() == 20.0
    run.left.observe(FramesDecoded(1, 5))
    assert run.seconds() == 20.0
    run.clock.wait(7.0)
    run.left.observe(FramesDecoded(2, 5))
    assert run.seconds() == pytest.approx(3 * 7.0)
    run.clock.wait(4.0)
    assert run.seconds() == pytest.approx(3 * 7.0 - 4.0)
    run.clock.wait(100.0)
    assert run.seconds() == 0.0


def test_where_nothing_is_known_of_decoding_its_first_frame_counts_until_the_second(tmp_path: Path):
    run = Run(tmp_path, replace(WORK, stages=("decode",), step_weights=()))
    run.start("decode")
    assert run.left.estimate() is None
    run.clock.wait(10.0)
    run.left.observe(FramesDecoded(1, 5))
    assert run.seconds() == pytest.approx(40.0)
    run.clock.wait(3.0)
    run.left.observe(FramesDecoded(2, 5))
    assert run.seconds() == pytest.approx(9.0)


def test_frames_behind_the_last_tile_are_not_decoded_anew(tmp_path: Path):
    run = Run(tmp_path, replace(WORK, stages=("decode",), step_weights=()))
    run.start("decode")
    for done in (1, 2, 3, 4):
        run.clock.wait(5.0)
        run.left.observe(TilesDecoded(done, 4))
    run.left.observe(FramesDecoded(1, 5))
    assert run.seconds() == 0.0


def test_a_run_that_ends_early_leaves_nothing_of_its_stage(tmp_path: Path):
    run = Run(tmp_path)
    run.start("denoise")
    run.step(0, 10.0)
    run.step(1, 10.0)
    assert Run(tmp_path).left.estimate() is None


def test_a_run_of_one_step_leaves_no_rate_that_holds_its_loading(tmp_path: Path):
    once = replace(WORK, step_weights=(2.0,))
    Run(tmp_path, once).make(100.0)
    assert Run(tmp_path, once).left.estimate() is None


def test_runs_that_follow_take_as_long(tmp_path: Path):
    Run(tmp_path).make(15.0, 10.0, 10.0, 10.0, 10.0)
    run = Run(tmp_path, replace(WORK, runs_after=2))
    whole = 4.0 + 5.0 + 50.0 + 30.0
    assert run.seconds() == 3 * whole
    run.start("text")
    run.finish("text", 4.0)
    assert run.seconds() == 3 * whole - 4.0
