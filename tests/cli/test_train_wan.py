"""The command that trains: from a folder of clips to a file that --lora takes."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline, train_wan
from mlx_video.cli import train as cli_train
from mlx_video.training.log import read_log
from mlx_video.training.state import load_state
from tests.training.data.clip_files import draw_frames, write_picture, write_video
from tests.training.data.tiny_learners import convert_tiny

SIZE = ["--width", "32", "--height", "32", "--num-frames", "5"]
FEW = ["--steps", "3", "--rank", "2", "--learning-rate", "0.01"]
SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": 2, "guide_scale": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_tiny(tmp_path_factory.mktemp("models"), "wan2.1-t2v-1.3b")[0].path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "clips"
    write_video(folder / "a.mp4", draw_frames(9), "a cat")
    write_video(folder / "b.mp4", draw_frames(6, seed=1), "a dog")
    write_picture(folder / "c.png", draw_frames(1)[0], "a still")
    return folder


def train(model: Path, clips: Path, folder: Path, *words: str) -> int:
    named = ["--model-dir", str(model), "--dataset", str(clips), "--output-dir", str(folder)]
    return train_wan.main([*named, *SIZE, *FEW, *words])


def test_clips_become_an_adapter_that_changes_videos(model: Path, clips: Path, tmp_path: Path, capsys):
    assert train(model, clips, tmp_path, "--output-name", "cats") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(tmp_path / "cats.safetensors")
    assert "numbers in 40 parameters of lora are trained" in printed.err
    assert "3 batches are an epoch, 3 steps 1.0 of them" in printed.err
    lines = [line for line in printed.err.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == [f"step {number} of 3" for number in (1, 2, 3)]
    assert all("left" in line and "loss" in line for line in lines[:2])
    assert all("loss" in line for line in lines)
    pipeline = WanPipeline.from_pretrained(model)
    plain, changed = (
        pipeline("a cat", loras=loras, **SMALL).frames for loras in ([], [tmp_path / "cats.safetensors"])
    )
    assert not np.array_equal(plain, changed)
    assert [record.step for record in read_log(tmp_path)] == [1, 2, 3]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_goes_on_with_resume_and_not_without(model: Path, clips: Path, tmp_path: Path, capsys):
    words = ["--schedule", "constant", "--warm-up-steps", "0"]
    assert train(model, clips, tmp_path / "a", *words) == 0
    assert train(model, clips, tmp_path / "a", *words) == 2
    assert "--output-dir" in capsys.readouterr().err
    assert train(model, clips, tmp_path / "a", *words, "--steps", "5", "--resume") == 0
    assert train(model, clips, tmp_path / "b", *words, "--steps", "5") == 0
    found, expected = (load_state(tmp_path / name / "state.safetensors")[0] for name in "ab")
    assert found.step == 5
    assert all(mx.array_equal(found.values[name], expected.values[name]) for name in expected.values)


def test_the_passes_before_are_made_apart(model: Path, clips: Path, tmp_path: Path, capsys):
    cache = tmp_path / "cache"
    assert train(model, clips, tmp_path / "out", "--cache-directory", str(cache), "--cache-only") == 0
    assert list((cache / "examples").iterdir())
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    assert train(model, clips, tmp_path / "out", "--cache-directory", str(cache)) == 0
    assert "captions" not in capsys.readouterr().err.replace("a caption", "")


def test_the_plan_is_told_and_nothing_written(model: Path, clips: Path, tmp_path: Path, capsys):
    before = sorted(clips.rglob("*"))
    assert train(model, clips, tmp_path / "out", "--plan") == 0
    printed = capsys.readouterr().out
    for stage in ("text ", "image ", "training "):
        assert f"\n{stage}" in printed
    assert "all 2 blocks and all activations; lora beside it" in printed
    assert sorted(clips.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_streamed_training_ends_where_resident_training_does(model: Path, clips: Path, tmp_path: Path):
    for name in ("on", "off"):
        assert train(model, clips, tmp_path / name, "--stream", name) == 0
    found, expected = (load_state(tmp_path / name / "state.safetensors")[0] for name in ("on", "off"))
    for name, value in expected.values.items():
        assert np.allclose(np.array(found.values[name]), np.array(value), atol=1e-4), name


def test_too_little_memory_is_told_before_a_step(model: Path, clips: Path, tmp_path: Path, capsys):
    assert train(model, clips, tmp_path, "--memory-limit", "0.0005") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "needs" in error
    assert "--memory-limit" in error


def test_videos_are_made_on_the_way(model: Path, clips: Path, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 16 --h 16 --f 1 --s 1\na dog --w 16 --h 16 --f 1 --s 1\n")
    words = ["--sample-every", "2", "--sample-prompts", str(prompts)]
    assert train(model, clips, tmp_path / "out", *words) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "samples").iterdir()) == [
        "step000002_1.mp4",
        "step000002_2.mp4",
    ]
    assert train(model, clips, tmp_path / "plain") == 0
    found, expected = (load_state(tmp_path / name / "state.safetensors")[0] for name in ("out", "plain"))
    assert all(mx.array_equal(found.values[name], expected.values[name]) for name in expected.values)


def test_tensorboard_reads_the_events(model: Path, clips: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(model, clips, tmp_path, "--tensorboard") == 0
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(one.step, pytest.approx(one.loss)) for one in read_log(tmp_path)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--expert", "high_noise"], "--expert high_noise: the model has one transformer"),
        (["--network", "full", "--stream", "on"], "--stream on: the transformer's own weights change"),
        (["--network", "full", "--alpha", "2"], "--alpha counts only for adapters"),
        (["--target-modules", "attn9.q"], "--target-modules attn9.q: fits no layer"),
        (["--network", "full", "--target-modules", "attn9.q"], "attn9.q: fits no parameter"),
        (["--min-timestep", "900", "--max-timestep", "100"], "--min-timestep 900: must be below"),
        (["--sample-every", "2"], "--sample-prompts is missing"),
        (["--network", "loha", "--export", "diffusers"], "--export diffusers: has no names for `loha`"),
        (["--network", "lokr", "--export", "peft"], "--export peft: has no names for `lokr`"),
        (["--output-name", "a/b"], "--output-name 'a/b': must be a file's name"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: Path, clips: Path, tmp_path: Path, capsys, words: list[str], text: str
):
    assert train(model, clips, tmp_path, *words) == 2
    assert text in capsys.readouterr().err


def test_a_step_is_told_to_programs(model: Path, clips: Path, tmp_path: Path, capsys):
    assert train(model, clips, tmp_path, "--json-events") == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    steps = [event for event in events if event["event"] == "TrainingStepFinished"]
    assert [event["index"] for event in steps] == [0, 1, 2]
    assert all(event["loss"] > 0 for event in steps)


def test_one_machine_that_a_launcher_started_works_alone(
    model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hosts = tmp_path / "ring.json"
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    hosts.write_text('[["127.0.0.1:5000"]]')
    assert train(model, clips, tmp_path / "one") == 0


def test_extra_inputs_decide_which_demo_model_is_trained(clips: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(cli_train, "open_model_of", lambda args, inputs: iter([asked.append(set(inputs))]))
    for words in ([], ["--extra-inputs", "input_image"]):
        args = cli_train.build_parser().parse_args(["--dataset", str(clips), *words])
        with pytest.raises(TypeError):  # of the model that is not there
            [*cli_train.run_events(args)]
    assert asked == [set(), {"image"}]
