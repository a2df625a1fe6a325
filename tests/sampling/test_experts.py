"""One expert after the other, and never both unless asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.sampling.experts import (
    ExpertName,
    ExpertRelay,
    count_high_noise_steps,
    split_at_boundary,
    split_at_step,
)
from mlx_video.sampling.guidance import Velocity
from mlx_video.sampling.schedule import Schedule, build_schedule
from tests.models.networks import at

LATENTS = mx.zeros((1, 1, 1, 1))
VALUES = {"high_noise": 2.0, "low_noise": 1.0}


class Loads:
    """Writes down what is loaded and released, and how many experts are in memory at most."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.loaded = 0
        self.most = 0

    @contextmanager
    def open(self, name: ExpertName) -> Iterator[Velocity]:
        self.events.append(f"load {name}")
        self.loaded += 1
        self.most = max(self.most, self.loaded)
        yield lambda latents, step: latents + VALUES[name]
        self.events.append(f"release {name}")
        self.loaded -= 1


@pytest.mark.parametrize(
    ("timestep", "name"), [(999, "high_noise"), (875, "high_noise"), (874, "low_noise"), (0, "low_noise")]
)
def test_the_boundary_itself_belongs_to_the_high_noise_expert(timestep: int, name: str):
    assert split_at_boundary(0.875)(at(timestep)) == name


def test_high_noise_steps_are_counted():
    timesteps = np.array([999, 983, 959, 922, 856, 705])
    schedule = Schedule(np.linspace(1, 0, 7, dtype=np.float32), timesteps)
    for boundary, steps in ((0.875, 4), (0.0, 6), (1.0, 0)):
        assert count_high_noise_steps(schedule, split_at_boundary(boundary)) == steps


@pytest.mark.parametrize(
    ("shift", "boundary", "counts"),
    [
        (12.0, 0.875, {20: 13, 25: 16, 30: 19, 40: 26, 50: 32}),
        (5.0, 0.9, {20: 8, 25: 9, 30: 11, 40: 15, 50: 18}),
    ],
    ids=["T2V", "I2V"],
)
def test_high_noise_steps_of_the_official_settings_are_the_published_ones(shift, boundary, counts):
    split = split_at_boundary(boundary)
    found = {steps: count_high_noise_steps(build_schedule("unipc", steps, shift), split) for steps in counts}
    assert found == counts


def test_experts_may_be_split_by_number():
    schedule = build_schedule("euler", 4, 5.0)
    split = split_at_step(2)
    assert [split(schedule.step(i)) for i in range(4)] == ["high_noise"] * 2 + ["low_noise"] * 2
    assert count_high_noise_steps(schedule, split) == 2


def test_an_expert_is_released_before_the_other_is_loaded():
    loads = Loads()
    with ExpertRelay(loads.open, split_at_boundary(0.9)) as relay:
        values = [relay(LATENTS, at(t, i)).item() for i, t in enumerate((999, 950, 880, 300))]
    assert values == [2.0, 2.0, 1.0, 1.0]
    assert loads.events == ["load high_noise", "release high_noise", "load low_noise", "release low_noise"]
    assert loads.most == 1


def test_both_experts_are_kept_where_asked():
    loads = Loads()
    with ExpertRelay(loads.open, split_at_boundary(0.9), keep_both=True) as relay:
        for timestep in (999, 300, 999):
            relay(LATENTS, at(timestep))
    assert loads.events == ["load high_noise", "load low_noise", "release low_noise", "release high_noise"]


def test_an_expert_without_steps_is_never_loaded():
    loads = Loads()
    with ExpertRelay(loads.open, split_at_boundary(0.0)) as relay:
        relay(LATENTS, at(5))
    assert loads.events == ["load high_noise", "release high_noise"]


def test_memory_is_released_when_a_step_fails():
    loads = Loads()

    def fail() -> None:
        with ExpertRelay(loads.open, split_at_boundary(0.5)) as relay:
            relay(LATENTS, at(900))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert loads.loaded == 0
