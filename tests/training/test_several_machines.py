"""A training on several machines: the numbers of one, files of rank 0 alone, and what becomes of failures."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import convert_checkpoint, train_wan
from mlx_video.training.log import read_log
from mlx_video.training.state import load_state
from tests.distributed.ranks import Ended, run_ranks, started
from tests.training.data.clip_files import draw_frames, write_video
from tests.training.data.tiny_learners import convert_tiny

pytestmark = pytest.mark.slow

PROGRAM = ["-m", "mlx_video.train_wan"]
SMALL = ["--width=32", "--height=32", "--num-frames=5", "--rank=2", "--learning-rate=0.01"]
SHARED = ["--batch-size=2", "--gradient-accumulation=2", "--caption-dropout=0.4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_tiny(tmp_path_factory.mktemp("models"), "wan2.1-t2v-1.3b")[0].path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "clips"
    for number, caption in enumerate(["a cat", "a dog", "a very long hen"]):
        write_video(folder / f"{number}.mp4", draw_frames(5, seed=number), caption)
    return folder


def words(model: Path, clips: Path, folder: Path, *more: str) -> list[str]:
    named = [f"--model-dir={model}", f"--dataset={clips}", f"--output-dir={folder}"]
    return [*named, *SMALL, "--steps=4", *more]


def together(count: int, options: Sequence[str]) -> list[Ended]:
    return run_ranks(count, [*PROGRAM, *options], seconds=150)


def assert_close(found: Path, expected: Path) -> None:
    """Both states are the same but for the order in which gradients were added up."""
    (one, _), (other, _) = (load_state(folder / "state.safetensors") for folder in (found, expected))
    assert one.step == other.step
    for name, value in other.values.items():
        # Adam divides by the gradient's size, so that what is nearly zero keeps the rounding's sign.
        assert mx.linalg.norm(one.values[name] - value) <= 1e-5 * max(1.0, mx.linalg.norm(value).item()), name
    losses = [[each.loss for each in read_log(folder)] for folder in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("count", "more"),
    [
        (2, ["--ema=0.9"]),
        (3, ["--stream=on"]),
        pytest.param(2, ["--network=full"], marks=pytest.mark.nightly),
        pytest.param(4, ["--network=loha", "--optimizer=adafactor"], marks=pytest.mark.nightly),
    ],
)
def test_processes_train_as_one_with_the_same_batches(
    model: Path, clips: Path, tmp_path: Path, count: int, more: list[str]
):
    """Three clips in batches of two: the second has a single one, so that some have nothing to compute."""
    assert train_wan.main(words(model, clips, tmp_path / "one", *SHARED, *more)) == 0
    ended = together(count, words(model, clips, tmp_path / "all", *SHARED, *more))
    assert [each.code for each in ended] == [0] * count, ended
    assert [(each.out, each.err) for each in ended[1:]] == [("", "")] * (count - 1)
    assert f"{count} processes on " in ended[0].err
    assert_close(tmp_path / "all", tmp_path / "one")


def test_processes_distil_as_one(model: Path, clips: Path, tmp_path: Path):
    listed = tmp_path / "clips.csv"
    rows = "".join(f"{number}.mp4,a cat,{number}\n" for number in range(3))
    listed.write_text(f"video,prompt,seed\n{rows}")
    named = [f"--model-dir={model}", f"--dataset-config={listed}", f"--dataset-base-path={clips}"]
    named += ["--task=direct-distill", "--distill-steps=2", "--num-frames=5", "--rank=2", "--steps=3"]
    named += ["--gradient-accumulation=2", "--learning-rate=0.01"]
    one, all_ = ([*named, f"--output-dir={tmp_path / name}"] for name in ("one", "all"))
    assert train_wan.main(one) == 0
    ended = together(2, all_)
    assert [each.code for each in ended] == [0, 0], ended
    assert_close(tmp_path / "all", tmp_path / "one")


def test_another_number_of_machines_goes_on(model: Path, clips: Path, tmp_path: Path):
    kept = ["--schedule=constant", "--warm-up-steps=0", *SHARED]
    assert train_wan.main(words(model, clips, tmp_path / "one", *kept)) == 0
    assert train_wan.main(words(model, clips, tmp_path / "all", *kept, "--steps=2")) == 0
    ended = together(2, words(model, clips, tmp_path / "all", *kept, "--resume"))
    assert [each.code for each in ended] == [0, 0], ended
    assert "Going on after step 2 of 4" in ended[0].err
    assert_close(tmp_path / "all", tmp_path / "one")


def test_a_killed_machine_ends_the_training_with_its_steps_kept(model: Path, clips: Path, tmp_path: Path):
    options = words(model, clips, tmp_path / "all", *SHARED, "--steps=3000", "--lost-after=5")
    with started(2, [*PROGRAM, *options]) as ranks:
        ranks.wait_until_told(0, "step 30 of 3000")
        ranks[1].send_signal(signal.SIGKILL)
        first, _ = ranks.wait(60)
    assert first.code == 1
    assert "(rank 1 of 2) has ended" in first.err, first.err[-1500:]
    assert "Traceback" not in first.err
    assert load_state(tmp_path / "all" / "state.safetensors")[0].step >= 30


def test_too_few_examples_for_all_are_refused(model: Path, clips: Path, tmp_path: Path):
    ended = together(2, words(model, clips, tmp_path / "all"))
    assert ended[0].code == 2
    assert "a step has 1 examples, too few for 2 machines" in ended[0].err
    assert "--gradient-accumulation" in ended[0].err
    assert ended[1] == Ended(0, "", "")


def test_another_model_on_one_machine_is_refused(model: Path, clips: Path, tmp_path: Path):
    other = convert_checkpoint(model.parent / "original" / model.name, tmp_path / "other", dtype="bfloat16")
    options = [words(each, clips, tmp_path / "all", *SHARED) for each in (model, other)]
    ended = run_ranks(2, [[*PROGRAM, *each] for each in options])
    assert ended[0].code == 1
    assert "(rank 1 of 2) would compute something else" in ended[0].err
