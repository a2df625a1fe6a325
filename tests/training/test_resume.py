"""A training that is broken off, even killed, goes on from its state bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.errors import MediaError, RequestError
from mlx_video.events import ResumeHint, StateSaved, TrainingStepFinished
from mlx_video.training.log import read_log
from mlx_video.training.state import load_state
from mlx_video.training.train import train
from tests.training.small_training import DrawnExamples, plan_small, run, write_model

EXAMPLES = DrawnExamples(count=5, size=2)
EVERYTHING = {"ema": 0.9, "gradient_accumulation": 2, "caption_dropout": 0.5, "warm_up_steps": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def break_off(plan, after: int) -> None:
    """End a training by Ctrl-C after some steps."""
    work = train(plan, EXAMPLES)
    for event in work:
        if isinstance(event, TrainingStepFinished) and event.index + 1 == after:
            break
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt())


def assert_alike(found: Path, expected: Path) -> None:
    """Both folders hold the same state, result and losses."""
    (state, _), (whole, _) = (load_state(folder / "state.safetensors") for folder in (found, expected))
    assert state.step == whole.step
    for part in ("values", "optimizer", "average"):
        arrays, others = getattr(state, part), getattr(whole, part)
        assert arrays.keys() == others.keys()
        assert all(mx.array_equal(arrays[name], others[name]) for name in arrays)
    assert mx.any(mx.array([each.loss for each in read_log(found)]))
    assert [each.loss for each in read_log(found)] == [each.loss for each in read_log(expected)]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "options",
    [
        {},
        EVERYTHING,
        {"optimizer": "adafactor"},
        {"optimizer": "lion"},
        {"network": "loha"},
        {"network": "lokr"},
        {"network": "full"},
    ],
    ids=["defaults", "everything", "adafactor", "lion", "loha", "lokr", "full"],
)
def test_a_training_broken_off_goes_on_bit_for_bit(model: Path, tmp_path: Path, options: dict):
    _, whole = run(plan_small(model, tmp_path / "whole", **options), EXAMPLES)
    break_off(plan_small(model, tmp_path / "broken", **options), 1)
    break_off(plan_small(model, tmp_path / "broken", resume=True, **options), 3)
    _, resumed = run(plan_small(model, tmp_path / "broken", resume=True, **options), EXAMPLES)
    assert_alike(tmp_path / "broken", tmp_path / "whole")
    if whole.is_file():
        found, expected = mx.load(str(resumed)), mx.load(str(whole))
        assert all(mx.array_equal(found[name], expected[name]) for name in expected)


def test_a_killed_training_goes_on_from_its_last_state(model: Path, tmp_path: Path):
    killed = tmp_path / "killed"
    code = (
        "from tests.training.small_training import *; from tests.training.test_resume import EXAMPLES\n"
        f"for event in train(plan_small(Path({str(model)!r}), Path({str(killed)!r}), steps=500, save_every=1,"
        " schedule='constant'), EXAMPLES): pass"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.DEVNULL)
    try:
        while len(read_log(killed)) < 4:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    step = load_state(killed / "state.safetensors")[0].step
    assert 3 <= step < 500
    options = {"steps": step + 2, "schedule": "constant", "warm_up_steps": 25}
    run(plan_small(model, killed, resume=True, **options), EXAMPLES)
    run(plan_small(model, tmp_path / "whole", **options), EXAMPLES)
    assert_alike(killed, tmp_path / "whole")


def test_states_are_kept_on_the_way_and_say_how_to_go_on(model: Path, tmp_path: Path):
    events, _ = run(plan_small(model, tmp_path, save_every=2))
    kept = [event for event in events if isinstance(event, StateSaved)]
    assert [event.done for event in kept] == [0, 2, 4]
    assert isinstance(kept[0].resume_hint, ResumeHint)
    assert "--resume" in kept[0].resume_hint.command


def test_a_state_is_not_overwritten_unasked(model: Path, tmp_path: Path):
    run(plan_small(model, tmp_path))
    with pytest.raises(RequestError, match="holds the state of a training. Go on with --resume"):
        next(train(plan_small(model, tmp_path), EXAMPLES))


@pytest.mark.parametrize(
    "change", [{"learning_rate": 2e-2}, {"seed": 5}, {"alpha": 1.0}, {"optimizer": "lion"}], ids=str
)
def test_a_state_of_another_training_is_refused(model: Path, tmp_path: Path, change: dict):
    run(plan_small(model, tmp_path))
    with pytest.raises(RequestError, match="state.safetensors is of another"):
        next(train(plan_small(model, tmp_path, resume=True, **change), DrawnExamples()))


def test_a_state_of_another_dataset_is_refused(model: Path, tmp_path: Path):
    run(plan_small(model, tmp_path))
    with pytest.raises(RequestError, match="dataset"):
        next(train(plan_small(model, tmp_path, resume=True), DrawnExamples(identity="other")))


def test_a_training_has_more_steps_only_where_its_rates_do_not_follow_from_them(model: Path, tmp_path: Path):
    constant = {"schedule": "constant", "warm_up_steps": 0}
    run(plan_small(model, tmp_path / "a", **constant))
    events, _ = run(plan_small(model, tmp_path / "a", resume=True, steps=6, **constant))
    assert sum(isinstance(event, TrainingStepFinished) for event in events) == 2
    run(plan_small(model, tmp_path / "b"))
    with pytest.raises(RequestError, match="cosine over 4 steps"):
        next(train(plan_small(model, tmp_path / "b", resume=True, steps=6), DrawnExamples()))
    with pytest.raises(RequestError, match="6 are taken already"):
        next(train(plan_small(model, tmp_path / "a", resume=True, steps=5, **constant), DrawnExamples()))


def test_a_damaged_state_is_told_from_a_sound_one(model: Path, tmp_path: Path):
    (tmp_path / "state.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(MediaError, match="is no state of a training"):
        next(train(plan_small(model, tmp_path, resume=True), EXAMPLES))
