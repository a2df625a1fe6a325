"""Learning rates over time, and what each part of a step does."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.training.log import read_log
from mlx_video.training.optimizers import OPTIMIZERS, Descent, Schedule, average_in, clip_gradients
from mlx_video.training.state import load_state
from tests.training.small_training import DrawnExamples, plan_small, run, write_model

RATES = {
    "constant": [0.5, 1.0, 1.0, 1.0, 1.0, 1.0],
    "linear": [0.5, 1.0, 1.0, 0.75, 0.5, 0.25],
    "cosine": [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", RATES)
def test_rates_rise_and_take_their_course(name: str):
    schedule = Schedule(name, 1.0, 2, 6)
    assert [schedule.rate(step) for step in range(6)] == pytest.approx(RATES[name], abs=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_down_a_slope(name: str):
    values = {"a.b": mx.array([[3.0, -2.0], [1.0, 4.0]])}
    descent = Descent(name, 0.0, Schedule("constant", 0.05, 0, 200), 0.0)
    for step in range(200):
        values, _ = descent.take_step(step, values, {"a.b": 2 * values["a.b"]})
    assert mx.abs(values["a.b"]).max().item() < 0.3


def test_a_moving_average_is_of_what_was():
    found = average_in({"a": mx.array(1.0)}, {"a": mx.array(3.0)}, 0.75)
    assert found["a"].item() == 1.5


def values_of(plan, examples: DrawnExamples) -> dict[str, mx.array]:
    run(plan, examples)
    return load_state(plan.state_path)[0].values


def test_batches_of_a_step_count_as_one_larger_batch(model: Path, tmp_path: Path):
    # Each example of a batch has chance of its own, so that only the sum of gradients is compared.
    one = plan_small(model, tmp_path / "a", steps=1, gradient_accumulation=2, caption_dropout=0.0)
    values_of(one, DrawnExamples(count=4))
    first = plan_small(model, tmp_path / "b", steps=1, caption_dropout=0.0)
    values_of(first, DrawnExamples(count=4))
    losses = [read_log(folder)[0].loss for folder in (tmp_path / "a", tmp_path / "b")]
    assert losses[0] != losses[1]
    assert [record.step for record in read_log(tmp_path / "a")] == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"max_gradient_norm": 1e-3},
        {"weight_decay": 1.0},
        {"gradient_accumulation": 2},
        {"timestep_sampling": "uniform"},
        {"timestep_shift": 1.0},
        {"weighting": "bell"},
        {"caption_dropout": 1.0},
        {"optimizer": "adafactor"},
        {"schedule": "linear"},
        {"warm_up_steps": 3},
        {"seed": 9},
        {"max_timestep": 500},
        {"rank": 3},
        {"alpha": 7.0},
        {"adapter_dtype": "bfloat16"},
    ],
    ids=str,
)
def test_an_option_changes_what_is_learned(model: Path, tmp_path: Path, change: dict):
    base = {"steps": 3}
    plain = values_of(plan_small(model, tmp_path / "a", **base), DrawnExamples())
    changed = values_of(plan_small(model, tmp_path / "b", **(base | change)), DrawnExamples())
    assert plain.keys() == changed.keys()
    assert any(
        plain[name].shape != changed[name].shape
        or plain[name].dtype != changed[name].dtype
        or not mx.array_equal(plain[name], changed[name])
        for name in plain
    )


def test_cut_gradients_keep_their_types():
    gradients = {"a": mx.ones((4,), mx.bfloat16), "b": mx.ones((4,))}
    for most in (0.5, 100.0, 0.0):
        clipped, norm = clip_gradients(gradients, most)
        assert {name: each.dtype for name, each in clipped.items()} == {"a": mx.bfloat16, "b": mx.float32}
        assert norm.item() == pytest.approx(8**0.5)
        # What is short enough stays as long as it is.
        length = mx.sqrt(sum(mx.sum(each.astype(mx.float32).square()) for each in clipped.values())).item()
        assert length == pytest.approx(0.5 if most == 0.5 else 8**0.5, rel=1e-2)


def test_the_first_step_of_adamw_is_as_long_as_the_rate():
    """Its moments begin at zero, which the correction makes good; else it would be 3.2 times as long."""
    descent = Descent("adamw", 0.0, Schedule("constant", 0.1, 0, 5), 0.0)
    values, _ = descent.take_step(0, {"a": mx.zeros((3,))}, {"a": mx.array([2.0, -0.5, 1e-3])})
    assert values["a"].tolist() == pytest.approx([-0.1, 0.1, -0.1], rel=1e-4)
