"""A training ends with a reason where it would go wrong or learn nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_video.errors import TrainingError
from mlx_video.events import Notice
from mlx_video.training.state import load_state
from tests.training.small_training import DrawnExamples, plan_small, run, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def test_a_loss_that_is_not_finite_names_step_and_clip_and_keeps_what_was_sound(model: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"^step 3: the loss of clip 2 is (nan|inf)\. Look at that clip"):
        run(plan_small(model, tmp_path), DrawnExamples(spoiled=2))
    state, _ = load_state(tmp_path / "state.safetensors")
    assert state.step == 2


def test_parameters_that_no_gradient_reaches_are_named(model: Path, tmp_path: Path):
    # The bell weighs clips without noise with nothing.
    quiet = {"min_timestep": 0, "max_timestep": 1e-15, "weighting": "bell"}
    plan = plan_small(model, tmp_path, network="full", target_modules=("head",), steps=12, **quiet)
    with pytest.raises(TrainingError, match=r"after 10 steps no gradient has reached 3 of 3 trained"):
        run(plan)


def test_an_adapter_that_stays_zero_ends_the_training(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path, steps=12, learning_rate=1e-46, weight_decay=0)
    with pytest.raises(TrainingError, match=r"still zero: the adapter changes nothing"):
        run(plan)


def test_what_is_trained_is_said_first(model: Path, tmp_path: Path):
    events, _ = run(plan_small(model, tmp_path, gradient_accumulation=3))
    (told,) = (event.text for event in events if isinstance(event, Notice) and "are trained" in event.text)
    count = 4 * (8 * 2 * (128 + 128) + 2 * 2 * (128 + 256))
    assert told.startswith(f"{count:,} numbers in 80 parameters of lora are trained")
    assert re.search(r"3 batches are an epoch, 4 steps 4.0 of them", told)
