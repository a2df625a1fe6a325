"""A run is a list of stages: what each takes and gives, and what it takes to add one."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.api import build_request
from mlx_video.events import FileWritten, Notice, StageFinished, StageStarted, StepFinished, Work, finish
from mlx_video.latents.latents_file import load_latents
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.modes import MODES, mode_of
from mlx_video.runs.run import Run
from mlx_video.runs.stages.decode import DECODE
from mlx_video.runs.stages.stage import Stage, run_stages
from mlx_video.variants.registry import VARIANTS
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": 2, "seed": 1, "guide_scale": 1.0}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    checkpoint = write_tiny_checkpoint(root / "original").path
    return WanPipeline.from_pretrained(convert_checkpoint(checkpoint, root / "tiny", dtype="float32"))


@pytest.fixture(scope="module")
def run(pipeline: WanPipeline) -> Run:
    return prepare_run(build_request("a cat", dict(SMALL)), pipeline.folder, pipeline.config)


def soften(run: Run, latents: mx.array) -> Work[mx.array]:
    """Stands for whatever may come between sampling and decoding."""
    yield Notice(f"softening {run.plan.geometry.num_frames} frames")
    return latents * 0.5


SOFTEN = Stage("soften", soften, takes=("latents",), gives="latents")


@pytest.fixture
def softened(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = MODES["generate"]
    place = stages.index(DECODE) - 1  # before the latents are saved
    monkeypatch.setitem(MODES, "generate", (*stages[:place], SOFTEN, *stages[place:]))


def stage_names(events: list, kind: type = StageStarted) -> list[str]:
    return [event.stage for event in events if isinstance(event, kind)]


@pytest.mark.usefixtures("softened")
def test_a_stage_is_added_by_its_name_in_a_list(pipeline: WanPipeline, tmp_path: Path):
    events, saved = [], tmp_path / "latents.safetensors"
    video = pipeline("a cat", on_event=events.append, save_latents=saved, **SMALL)
    assert stage_names(events) == ["text", "denoise", "soften", "decode"]
    assert stage_names(events, StageFinished) == stage_names(events)
    assert Notice("softening 5 frames") in events
    sampled = [event.latents for event in events if isinstance(event, StepFinished)][-1]
    # Its result is the run's, for all that comes after.
    assert mx.array_equal(video.latents, sampled * 0.5)
    assert mx.array_equal(load_latents(saved)[0], video.latents)
    assert np.array_equal(pipeline.decode(saved).frames, video.frames)


def test_every_unit_of_every_variant_has_its_stage():
    names = {stage.name for stage in MODES["generate"]}
    assert all(unit.stage in names for variant in VARIANTS for unit in variant.units)


def test_saving_latents_is_no_stage_that_is_told_of(pipeline: WanPipeline, tmp_path: Path):
    events, saved = [], tmp_path / "latents.safetensors"
    pipeline("a cat", on_event=events.append, save_latents=saved, **SMALL)
    assert stage_names(events) == ["text", "denoise", "decode"]
    place = events.index(FileWritten(saved))
    assert isinstance(events[place - 1], StageFinished)
    assert events[place + 1] == StageStarted("decode")


def test_a_run_whose_steps_are_taken_has_the_stages_that_are_left(pipeline: WanPipeline, tmp_path: Path):
    output, events = tmp_path / "a.webp", []

    def stop(event) -> None:
        if event == StageStarted("decode"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", output_path=output, on_event=stop, **SMALL)
    pipeline("a cat", output_path=output, resume=True, on_event=events.append, **SMALL)
    assert stage_names(events) == ["decode"]


def test_a_stage_that_a_run_has_no_need_of_gives_nothing(run: Run):
    def refuse(run, value) -> Work[int]:
        raise AssertionError

    def add(run, value) -> Work[int]:
        yield Notice("")
        return value + 1

    stages = [
        Stage("left out", refuse, takes=("n",), gives="n", is_needed=lambda run, value: value > 1),
        Stage("add", add, takes=("n",), gives="n", is_reported=False),
        Stage("add", add, takes=("n",), gives="m", is_reported=False),
    ]
    events: list = []
    assert finish(run_stages(run, stages, "m", {"n": 1}), events.append) == 3
    assert events == [Notice(""), Notice("")]
    assert finish(run_stages(run, stages, "n", {"n": 1}), events.append) == 2


def test_a_list_whose_stages_do_not_fit_together_is_refused(run: Run):
    with pytest.raises(ValueError, match="stage soften takes latents, which no earlier stage gives"):
        finish(run_stages(run, [SOFTEN], "latents", {}), print)


def test_a_result_is_let_go_before_the_stages_that_do_not_take_it(run: Run):
    class Large:
        """Stands for what takes memory."""

    alive: list[weakref.ref] = []

    def make(run) -> Work[Large]:
        yield from ()
        made = Large()
        alive.append(weakref.ref(made))
        return made

    def use(run, large) -> Work[int]:
        yield from ()
        return 1

    def look(run, number) -> Work[bool]:
        yield from ()
        return alive[0]() is None

    stages = [
        Stage("make", make, gives="large"),
        Stage("use", use, takes=("large",), gives="number"),
        Stage("look", look, takes=("number",), gives="gone"),
    ]
    assert finish(run_stages(run, stages, "gone", {}), lambda event: None)


def test_a_run_ends_where_its_listener_fails(pipeline: WanPipeline):
    def memory_limit() -> int:
        limit = mx.set_memory_limit(1 << 40)
        mx.set_memory_limit(limit)
        return limit

    def fail(event) -> None:
        if isinstance(event, StepFinished):
            assert memory_limit() == 2_000_000_000
            raise ArithmeticError

    before = memory_limit()
    with pytest.raises(ArithmeticError) as caught:
        pipeline("a cat", on_event=fail, memory_limit=2, **SMALL)
    # The traceback is held here, as a notebook does; it must not hold the run.
    assert caught.value.__traceback__ is not None
    assert memory_limit() == before


@pytest.mark.parametrize(
    ("parts", "mode"),
    [
        ({}, "generate"),
        ({"takes_steps": False}, "keep"),
        ({"conditioning": {}}, "denoise"),
        ({"blocks": 3}, "blocks"),
        ({"blocks": 3, "conditioning": {}}, "blocks"),
        ({"finished_latents": mx.zeros((1,)), "conditioning": {}, "blocks": 3}, "decode"),
        ({"finished_latents": mx.zeros((1,)), "extra_frames": 3}, "decode behind"),
    ],
    ids=str,
)
def test_what_is_there_decides_the_stages(parts: dict, mode: str):
    given = {"finished_latents": None, "conditioning": None, "blocks": None, "takes_steps": True} | parts
    way = SimpleNamespace(extra_frames=given["extra_frames"]) if "extra_frames" in given else None
    run = SimpleNamespace(
        finished_latents=given["finished_latents"],
        conditioning=given["conditioning"],
        plan=SimpleNamespace(blocks=given["blocks"]),
        request=SimpleNamespace(takes_steps=given["takes_steps"]),
        variant=SimpleNamespace(continuation=way),
    )
    assert mode_of(run) == MODES[mode]
