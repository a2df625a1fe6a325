"""Adapters whose strength changes from step to step: read, applied, streamed, and gone on with."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import AdapterError, RequestError, WanPipeline, convert_checkpoint
from mlx_video.request.adapters import StepStrengths, parse_adapter, parse_step_strengths
from mlx_video.request.adapters import read_adapter_choices as read_choices
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.sampling_runs import (
    SMALL,
    STEPS,
    assert_differs,
    assert_resumes_bit_for_bit,
    notices_of,
    open_deep_model,
    open_experts,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapter(pipeline: WanPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "style.safetensors"
    write_adapter(path, pipeline.config.transformer, seed=1)
    return path


# Read


def test_strengths_by_step_are_a_line_or_a_list():
    line = parse_step_strengths("1:0.4")
    assert [line.at(index, 4) for index in range(4)] == pytest.approx([1, 0.8, 0.6, 0.4])
    assert line.at(0, 1) == 1
    listed = parse_step_strengths("1,0.5,0")
    assert [listed.at(index, 3) for index in range(3)] == [1, 0.5, 0]
    assert (str(line), str(listed)) == ("1:0.4", "1,0.5,0")
    for text in ("1", "1,2", "1:2:3", "a:b", "1:", ""):
        assert parse_step_strengths(text) is None


def test_an_adapter_takes_them_behind_its_option_and_in_python():
    for choice in (parse_adapter(["a", "0:-1.5"]), read_choices("loras", [("a", "0:-1.5")])[0]):
        assert choice.by_step == StepStrengths((0.0, -1.5))
        assert choice.strength == -1.5
        assert str(choice) == "a 0:-1.5"


# Through the pipeline


def run(pipeline: WanPipeline, adapter: Path, strength: object, **options) -> mx.array:
    return pipeline("a cat", loras=[(adapter, strength)], **(SMALL | options)).latents


@pytest.mark.slow
def test_equal_strengths_are_one_strength(pipeline: WanPipeline, adapter: Path):
    plain = run(pipeline, adapter, 0.5, lora_mode="side")
    assert mx.array_equal(run(pipeline, adapter, "0.5:0.5"), plain)
    assert mx.array_equal(run(pipeline, adapter, "0.5,0.5,0.5,0.5"), plain)
    assert_differs(run(pipeline, adapter, "0.5:0.1"), plain)


@pytest.mark.slow
def test_each_step_has_its_strength(pipeline: WanPipeline, adapter: Path):
    line = run(pipeline, adapter, "0.9:0.3")
    assert mx.allclose(line, run(pipeline, adapter, "0.9,0.7,0.5,0.3"), atol=1e-5).item()
    # The first step alone has it: what comes behind is the plain model's, from other latents.
    once = run(pipeline, adapter, "0.9,0,0,0")
    assert_differs(once, run(pipeline, adapter, "0,0,0,0.9"))
    none = run(pipeline, adapter, "0,0,0,0.0000001")
    assert mx.allclose(none, pipeline("a cat", **SMALL).latents, atol=1e-4).item()


@pytest.mark.sample(1)
@pytest.mark.slow
@pytest.mark.parametrize("stream", ["off", "on"])
def test_they_are_resumed_bit_for_bit_and_streamed(
    pipeline: WanPipeline, adapter: Path, tmp_path: Path, stream: str
):
    resumed = assert_resumes_bit_for_bit(pipeline, tmp_path, stream=stream, loras=[(adapter, "0.9:0.3")])
    assert mx.array_equal(resumed, run(pipeline, adapter, "0.9:0.3", stream="off"))


@pytest.mark.slow
def test_a_run_leaves_no_strength_to_the_next(pipeline: WanPipeline, adapter: Path):
    first = run(pipeline, adapter, "0.9:0.3")
    plain = run(pipeline, adapter, 0.9, lora_mode="side")
    assert mx.array_equal(run(pipeline, adapter, "0.9:0.3"), first)
    assert mx.array_equal(run(pipeline, adapter, 0.9, lora_mode="side"), plain)


@pytest.mark.slow
def test_quantized_layers_and_one_of_two_experts_take_them(adapter: Path, tmp_path: Path):
    experts = open_experts(tmp_path)
    path = tmp_path / "one.safetensors"
    write_adapter(path, experts.config.transformer, seed=2)
    both = SMALL | {"expert_steps": 2}
    plain = experts("a cat", loras_high=[(path, 1.0)], lora_mode="side", **both).latents
    listed = experts("a cat", loras_high=[(path, "1,1,0,0")], **both).latents
    assert mx.array_equal(listed, plain)  # the high-noise expert serves the first two steps
    assert_differs(experts("a cat", loras_low=[(path, "0,0,1,1")], **both).latents, plain)
    quantized = WanPipeline.from_pretrained(
        convert_checkpoint(
            tmp_path / "original", tmp_path / "q", dtype="float32", quantize=True, bits=4, group_size=32
        )
    )
    sides = [
        quantized("a cat", loras_high=[(path, strength)], **both).latents for strength in (1.0, "1,1,0,0")
    ]
    assert mx.array_equal(*sides)


@pytest.mark.slow
def test_what_runs_beside_the_layers_is_told_and_recorded(pipeline: WanPipeline, adapter: Path):
    told = notices_of(pipeline, loras=[(adapter, "1:0.4")])
    assert any("1:0.4: the strength changes from step to step" in text for text in told)
    settings = pipeline("a cat", loras=[(adapter, "1:0.4")], **SMALL).settings
    assert settings["loras"] == f"{adapter} 1:0.4"


@pytest.mark.parametrize(
    ("strength", "options", "text"),
    [
        ("1,0.5,0", {}, f"3 strengths for {STEPS} steps"),
        ("1:0", {"lora_mode": "merge"}, "lora_mode: merge: .* changes by step"),
        ("1:0", {"steps": 10, "step_cache": "easycache"}, "step_cache: beside .* of no use"),
    ],
)
def test_what_they_do_not_go_with_is_refused(
    pipeline: WanPipeline, adapter: Path, strength: str, options: dict, text: str
):
    with pytest.raises(RequestError, match=text):
        run(pipeline, adapter, strength, **options)


def test_changes_of_other_kinds_have_one_strength(pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "whole.safetensors"
    dim = pipeline.config.transformer.dim
    mx.save_safetensors(str(path), {"diffusion_model.blocks.0.self_attn.q.diff": mx.ones((dim, dim))})
    with pytest.raises(AdapterError, match=r"whole.*by more than a pair of factors"):
        run(pipeline, path, "1:0")


def test_they_are_not_baked(pipeline: WanPipeline, adapter: Path, tmp_path: Path):
    original = pipeline.folder.path.parent / "original"
    with pytest.raises(RequestError, match="weights have no steps"):
        convert_checkpoint(original, tmp_path / "m", loras=[(adapter, "1:0")])
