"""What a run says of the work before it, by which its time is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.api import build_request
from mlx_video.events import StageStarted, WorkPlanned
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.modes import mode_of
from mlx_video.runs.run import Run
from mlx_video.runs.work import describe_work
from tests.fixtures.sampling_runs import LAYERS, SMALL, STEPS, open_deep_model, open_experts
from tests.fixtures.tiny_variants import write_tiny_variant


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_experts(tmp_path_factory.mktemp("experts"))


def plan_work(run: Run) -> WorkPlanned:
    return describe_work(run, mode_of(run))


def work_of(pipeline: WanPipeline, **options) -> WorkPlanned:
    request = build_request("a cat", SMALL | {"device_check": False} | options)
    return plan_work(prepare_run(request, pipeline.folder, pipeline.config))


def test_a_step_weighs_as_many_forwards_as_its_guidance_makes(pipeline: WanPipeline):
    assert work_of(pipeline).step_weights == (2.0,) * STEPS
    assert work_of(pipeline, guide_scale=1.0).step_weights == (1.0,) * STEPS
    assert work_of(pipeline, cfg_end=0.5).step_weights == (2.0, 2.0, 1.0, 1.0)
    assert work_of(pipeline, cfg_zero_star=1).step_weights == (0.0, 2.0, 2.0, 2.0)


def test_blocks_that_are_left_out_weigh_nothing(pipeline: WanPipeline):
    weights = work_of(pipeline, slg=(0,), slg_start=0.0, slg_end=1.0).step_weights
    assert max(weights) == 3.0 - 1 / LAYERS


def test_a_solver_with_two_velocities_has_a_weight_for_each(pipeline: WanPipeline):
    assert len(work_of(pipeline, scheduler="heun").step_weights) == 2 * STEPS - 1


def test_windows_are_counted(pipeline: WanPipeline):
    windowed = work_of(pipeline, num_frames=33, context_frames=17, context_overlap=4)
    assert windowed.step_weights == (4.0,) * STEPS


def test_a_cache_that_decides_on_the_way_makes_weights_uncertain(pipeline: WanPipeline):
    easy = work_of(pipeline, steps=20, step_cache="easycache")
    assert not easy.weights_are_certain
    assert easy.step_weights == (2.0,) * 20
    assert work_of(pipeline).weights_are_certain


def test_each_expert_is_loaded_before_its_first_step(experts: WanPipeline, pipeline: WanPipeline):
    assert work_of(experts, guide_scale=1.0, expert_steps=1).loading_steps == (0, 1)
    assert work_of(experts, guide_scale=1.0, expert_steps=3).loading_steps == (0, 3)
    assert work_of(pipeline).loading_steps == (0,)


def test_what_decides_the_speed_decides_the_key(pipeline: WanPipeline, experts: WanPipeline):
    usual = work_of(pipeline)
    for others in (
        {"width": 32},
        {"num_frames": 9},
        {"stream": "on"},
        {"compile": False},
        {"kernels": False},
        {"profile": Path("trace.json")},
        {"step_cache": "easycache", "steps": 9},
        {"num_frames": 33, "context_frames": 17, "context_overlap": 4},
    ):
        assert work_of(pipeline, **others).speed_key != usual.speed_key, others
    assert work_of(experts).speed_key != usual.speed_key
    for same in ({"seed": 2}, {"steps": 9}, {"guide_scale": 1.0}, {"shift": 3.0}, {"scheduler": "euler"}):
        assert work_of(pipeline, **same).speed_key == usual.speed_key, same
    assert work_of(pipeline, width=32, stream="on").decode_key == usual.decode_key
    assert usual.decoded_pixels == 16 * 16 * 5


def test_the_decoder_decides_the_key_of_decoding(pipeline: WanPipeline):
    run = prepare_run(build_request("a cat", dict(SMALL)), pipeline.folder, pipeline.config)
    tiny = replace(run, request=replace(run.request, decoder="tiny"))
    assert plan_work(tiny).decode_key != plan_work(run).decode_key
    assert plan_work(tiny).speed_key == plan_work(run).speed_key


def test_the_precision_of_the_files_decides_the_key(pipeline: WanPipeline):
    run = prepare_run(build_request("a cat", dict(SMALL)), pipeline.folder, pipeline.config)
    other = replace(run.model, transformers={"model": run.model.text_encoder})
    assert plan_work(replace(run, model=other)).speed_key != plan_work(run).speed_key


def test_a_run_plans_its_work_before_its_first_stage(pipeline: WanPipeline, tmp_path: Path):
    events: list[object] = []
    state = tmp_path / "latents.safetensors"
    pipeline("a cat", on_event=events.append, save_latents=state, **SMALL)
    (index,) = (number for number, event in enumerate(events) if isinstance(event, WorkPlanned))
    assert index < next(number for number, event in enumerate(events) if isinstance(event, StageStarted))
    events.clear()
    pipeline.decode(state, on_event=events.append)
    (decoding,) = (event for event in events if isinstance(event, WorkPlanned))
    assert (decoding.stages, decoding.step_weights) == (("decode",), ())


def test_segments_say_how_many_follow(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", "wan2.2-ti2v-5b")
    model = convert_checkpoint(tmp_path / "original", tmp_path / "m", dtype="float32")
    events: list[object] = []
    size = {"width": 32, "height": 32, "num_frames": 5}
    options = {**size, "steps": 1, "guide_scale": 1.0, "seed": 1, "segments": 3}
    image = np.zeros((32, 32, 3), np.uint8)
    WanPipeline.from_pretrained(model)("a cat", image=image, on_event=events.append, **options)
    assert [event.runs_after for event in events if isinstance(event, WorkPlanned)] == [2, 1, 0]
