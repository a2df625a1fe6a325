"""A profile tells when each stage, step and block of a run was at work, and changes nothing of its result."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.errors import RequestError
from mlx_video.events import StepFinished
from mlx_video.runs import profile as profile_module
from mlx_video.runs.profile import CAPTURE_SWITCH, Profile
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

SMALL = {"width": 32, "height": 32, "num_frames": 5, "steps": 2, "seed": 1}
LAYERS = 2


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    checkpoint = write_tiny_checkpoint(root / "original")
    return WanPipeline.from_pretrained(convert_checkpoint(checkpoint.path, root / "converted"))


def profile_of(pipeline: WanPipeline, path: Path, **options):
    video = pipeline("a cat", profile=path, **SMALL, **options)
    entries = json.loads(path.read_text())["traceEvents"]
    return video, [entry for entry in entries if entry["ph"] == "X"]


def names(entries, track):
    return [entry["name"] for entry in entries if entry["cat"] == track]


@pytest.mark.parametrize("stream", ["off", "on"])
def test_every_stage_step_and_block_is_in_the_trace(pipeline, tmp_path, stream):
    plain = pipeline("a cat", **SMALL, stream=stream)
    video, entries = profile_of(pipeline, tmp_path / "trace.json", stream=stream, prompt_cache=False)
    assert mx.array_equal(video.latents, plain.latents)
    assert names(entries, "stages") == ["text", "denoise", "decode"]
    assert names(entries, "steps") == ["step 1", "step 2"]
    # Two passes a step; those of a streamed step take turns in every block.
    turns = [0, 0, 1, 1] if stream == "on" else [0, 1, 0, 1]
    assert names(entries, "blocks") == [f"blocks.{index}" for index in turns * 2]
    waits = [f"wait for blocks.{index}" for index in range(LAYERS)] * 2
    assert names(entries, "reading") == (waits if stream == "on" else [])


def test_what_belongs_to_a_step_lies_within_its_time(pipeline, tmp_path):
    _, entries = profile_of(pipeline, tmp_path / "trace.json")
    (first, second) = (entry for entry in entries if entry["cat"] == "steps")
    ends = {entry["name"]: entry["ts"] + entry["dur"] for entry in (first, second)}
    blocks = [entry for entry in entries if entry["cat"] == "blocks"]
    assert all(entry["ts"] + entry["dur"] <= ends["step 1"] for entry in blocks[:4])
    assert all(second["ts"] <= entry["ts"] for entry in blocks[4:])


def test_the_profile_of_an_interrupted_run_is_written(pipeline, tmp_path):
    def interrupt(event) -> None:
        if isinstance(event, StepFinished):
            raise KeyboardInterrupt

    path = tmp_path / "trace.json"
    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", profile=path, on_event=interrupt, **SMALL)
    entries = json.loads(path.read_text())["traceEvents"]
    assert "step 1" in [entry["name"] for entry in entries]


def test_a_profile_replaces_an_earlier_one_and_nothing_else(pipeline, tmp_path):
    path = tmp_path / "trace.json"
    profile_of(pipeline, path)
    profile_of(pipeline, path)
    path.write_text('{"mine": 1}')
    with pytest.raises(RequestError, match="was not made by mlx-video"):
        pipeline("a cat", profile=path, **SMALL)
    assert path.read_text() == '{"mine": 1}'
    with pytest.raises(RequestError):
        pipeline("a cat", profile=tmp_path / "one.png", save_latents=tmp_path / "one.png", **SMALL)


def test_metal_captures_the_second_step_where_the_environment_lets_it(monkeypatch, tmp_path):
    calls = []
    metal = profile_module.mx.metal
    monkeypatch.setattr(metal, "start_capture", lambda path: calls.append(Path(path).name))
    monkeypatch.setattr(metal, "stop_capture", lambda: calls.append("stop"))

    def take_steps(count: int) -> None:
        profile = Profile(tmp_path / "trace.json")
        for index in range(count):
            profile.note_event(StepFinished(index, count, 500.0, 0.1, mx.zeros(1)))

    take_steps(3)
    assert calls == []
    monkeypatch.setenv(CAPTURE_SWITCH, "1")
    take_steps(3)
    assert calls == ["trace.gputrace", "stop"]
