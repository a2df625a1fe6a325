"""What a training takes where nobody says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.small_training import SIZES, plan_small, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("options", "times_width"),
    [({}, 0.4), ({"network": "loha"}, 0.4), ({"network": "full"}, 0.04), ({"optimizer": "lion"}, 0.04)],
)
def test_the_rate_follows_from_the_width(model: Path, tmp_path: Path, options: dict, times_width: float):
    schedule = plan_small(model, tmp_path, learning_rate=None, **options).schedule
    assert schedule.peak == pytest.approx(times_width / SIZES.transformer.dim)


def test_the_warm_up_is_a_twentieth(model: Path, tmp_path: Path):
    assert plan_small(model, tmp_path, steps=1000).schedule.warm_up == 50
    assert plan_small(model, tmp_path, steps=1000, warm_up_steps=3).schedule.warm_up == 3
