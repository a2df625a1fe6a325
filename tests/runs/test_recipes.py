"""Recipes through the whole pipeline: solvers and lists of steps, recognised by names, and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from safetensors.numpy import load_file, save_file

from mlx_video import AdapterError, RequestError, WanPipeline, convert_checkpoint
from mlx_video.events import StepFinished
from mlx_video.sampling.recipes.table import RECIPES
from mlx_video.sampling.solvers.table import SOLVERS
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.sampling_runs import (
    SMALL,
    assert_differs,
    assert_resumes_bit_for_bit,
    choose,
    notices_of,
    open_deep_model,
    open_experts,
)
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint

pytestmark = pytest.mark.slow

OPEN = {"steps": None, "guide_scale": None}
CONFIG = replace(TinySizes().transformer, num_layers=4)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_experts(tmp_path_factory.mktemp("experts"))


def timesteps_of(pipeline: WanPipeline, **options) -> list[float]:
    events: list[object] = []
    pipeline("a cat", on_event=events.append, **(SMALL | OPEN | options))
    return [event.timestep for event in events if isinstance(event, StepFinished)]


@pytest.mark.sample(2)
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ("unipc", "dpm++", "euler")])
def test_a_run_by_any_solver_is_resumed_bit_for_bit(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str
):
    plain = pipeline("a cat", **SMALL).latents
    choose(monkeypatch, solver=solver)
    velocities = 7 if solver in ("heun", "dpmpp_sde") else 4
    assert_differs(assert_resumes_bit_for_bit(pipeline, tmp_path, velocities), plain)


# Recipes of a model of their own, which tests/spec resumes in every run.
OWN = ("longcat", "longcat-distilled", "longcat-refine", "krea", "bernini")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=[pytest.mark.nightly] * (name in OWN))
        for name in RECIPES
        if name != "official"
    ],
)
@pytest.mark.parametrize("kind", ["pipeline", "experts"])
def test_a_run_by_any_recipe_is_resumed_bit_for_bit(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, kind: str
):
    model = request.getfixturevalue(kind)
    choose(monkeypatch, recipe=recipe)
    velocities = len(timesteps_of(model))
    assert_resumes_bit_for_bit(model, tmp_path, velocities, **OPEN)


def test_two_velocities_a_step_are_recorded_as_the_steps_that_were_asked_for(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    choose(monkeypatch, solver="heun")
    video = pipeline("a cat", **SMALL)
    assert (video.settings["steps"], video.settings["scheduler"]) == ("4", "heun")


def test_a_state_of_another_recipe_is_refused(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output, options = tmp_path / "video.webp", SMALL | OPEN | {"output_path": tmp_path / "video.webp"}
    with monkeypatch.context() as patched:
        choose(patched, recipe="fastwan")
        pipeline("a cat", keep_state=True, **options)
    assert output.exists()
    choose(monkeypatch, recipe="lightx2v")
    with pytest.raises(RequestError, match="--recipe is fastwan there and lightx2v here"):
        pipeline("a cat", resume=True, **options)


# Recognised by names


def adapter(folder: Path, name: str, metadata: dict[str, str] | None = None, config=CONFIG) -> Path:
    path = folder / f"{name}.safetensors"
    write_adapter(path, config)
    if metadata:
        save_file(load_file(path), path, metadata)
    return path


def test_a_distilled_adapter_picks_its_recipe(pipeline: WanPipeline, tmp_path: Path):
    lora = adapter(tmp_path, "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64")
    options = OPEN | {"loras": [lora]}
    assert timesteps_of(pipeline, **options) == pytest.approx([1000, 937.5, 2500 / 3, 625])
    texts = notices_of(pipeline, **options)
    assert f"{lora.name}: the name suggests a distilled adapter; recipe lightx2v is taken." in texts
    assert "Recipe lightx2v: 4 steps by euler, at guide scale 1." in texts


@pytest.mark.parametrize(
    ("metadata", "recipe"),
    [
        ({"recipe": "meanflow"}, "meanflow"),
        ({"ss_output_name": "Wan_CausVid_lora"}, "causvid"),
        ({"recipe": "unheard of"}, None),
    ],
)
def test_an_adapters_metadata_may_name_the_recipe(pipeline: WanPipeline, tmp_path: Path, metadata, recipe):
    lora = adapter(tmp_path, "plain", metadata)
    texts = notices_of(pipeline, loras=[lora], **OPEN)
    assert any(text.startswith(f"Recipe {recipe}:") for text in texts) == (recipe is not None)
    by_metadata = f"plain.safetensors: its metadata names how it was distilled; recipe {recipe} is taken."
    assert (by_metadata in texts) == (metadata.get("recipe") == recipe)


def test_an_adapters_metadata_may_state_steps_and_shift(pipeline: WanPipeline, tmp_path: Path):
    stated = {"recipe": "direct-distill", "recipe_steps": "2", "recipe_shift": "3.0"}
    lora = adapter(tmp_path, "student", stated)
    assert timesteps_of(pipeline, loras=[lora], **OPEN) == pytest.approx([1000, 750])
    texts = notices_of(pipeline, loras=[lora], **OPEN)
    assert "Recipe direct-distill: 2 steps by euler, at guide scale 1." in texts
    assert timesteps_of(pipeline, loras=[lora], **OPEN | {"steps": 1}) == pytest.approx([1000])


@pytest.mark.parametrize(
    ("name", "text"), [("recipe_steps", "2.5"), ("recipe_shift", "-3"), ("recipe_shift", "x")]
)
def test_steps_and_shift_that_are_none_are_refused(
    pipeline: WanPipeline, tmp_path: Path, name: str, text: str
):
    lora = adapter(tmp_path, "student", {"recipe": "direct-distill", name: text})
    with pytest.raises(AdapterError, match=f"{name} = {text}, which must be a positive number"):
        notices_of(pipeline, loras=[lora], **OPEN)


def test_what_contradicts_a_distilled_adapter_is_said(pipeline: WanPipeline, tmp_path: Path):
    lora = adapter(tmp_path, "causvid_lora")
    texts = "\n".join(notices_of(pipeline, loras=[lora], steps=5, guide_scale=4.0))
    assert "--steps 5 takes the place of the recipe's 9." in texts
    assert "Guide scale 4 on a distilled model" in texts


def test_an_adapter_without_strength_picks_nothing(pipeline: WanPipeline, tmp_path: Path):
    lora = adapter(tmp_path, "lightning")
    assert not any("Recipe" in text for text in notices_of(pipeline, loras=[(lora, 0.0)]))


def test_both_experts_need_an_adapter_of_the_same_recipe(experts: WanPipeline, tmp_path: Path):
    config = TinySizes().transformer
    high = adapter(tmp_path, "Wan2.2-Lightning_high", config=config)
    low = adapter(tmp_path, "Wan2.2-Lightning_low", config=config)
    texts = notices_of(experts, loras_high=[high], loras_low=[low], **OPEN)
    assert any(text.startswith("Recipe lightning") for text in texts)
    assert (
        "Of 4 steps the high-noise expert serves 2, then the low-noise expert 2 (split by number)." in texts
    )
    texts = notices_of(experts, loras_low=[low])
    assert not any(text.startswith("Recipe") for text in texts)
    assert any("the name suggests a distilled adapter, made for few steps" in text for text in texts)


def test_a_distilled_checkpoint_keeps_its_recipe_through_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write_tiny_checkpoint(tmp_path / "FastWan2.1-T2V-1.3B").path
    folder = convert_checkpoint(source, tmp_path / "model", dtype="float32")
    assert json.loads((folder / "config.json").read_text())["mlx_video"]["recipe"] == "fastwan"
    pipeline = WanPipeline.from_pretrained(folder)
    assert timesteps_of(pipeline) == [1000, 757, 522]
    video = pipeline("a cat", **(SMALL | OPEN))
    assert (video.settings["recipe"], video.settings["scheduler"]) == ("fastwan", "lcm")
    choose(monkeypatch, recipe="official")
    assert len(timesteps_of(pipeline)) == 50
    assert mx.abs(pipeline("a cat", **(SMALL | OPEN | {"steps": 3})).latents - video.latents).max() > 1e-3
