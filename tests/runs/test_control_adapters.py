"""Runs of text-to-video models with a control adapter: a video beside the noise, applied or baked in."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.events import Event, Notice, StepFinished
from mlx_video.inspect.path import inspect_path
from tests.fixtures.tiny_variants import write_tiny_variant
from tests.lora.adapter_files import write

pytestmark = pytest.mark.slow

HEIGHT, WIDTH, FRAMES, STEPS = 32, 48, 5, 2
SMALL = {
    "width": WIDTH, "height": HEIGHT, "num_frames": FRAMES, "steps": STEPS, "guide_scale": 3.0, "shift": 3.0,
    "seed": 1,
}  # fmt: skip
VIDEO = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
OTHER = VIDEO[:, ::-1]
LAYERS, RANK = 4, 4
QUANTIZED = {"quantize": True, "bits": 4, "group_size": 32}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("control")
    write_tiny_variant(path / "single", "wan2.1-t2v", num_layers=LAYERS)
    write_tiny_variant(path / "experts", "wan2.2-t2v-a14b", num_layers=LAYERS)
    for name in ("single", "experts"):
        convert_checkpoint(path / name, path / f"{name} dense", dtype="float32")
    return path


@pytest.fixture(scope="module")
def pipeline(root: Path) -> WanPipeline:
    return WanPipeline.from_pretrained(root / "single dense")


@pytest.fixture(scope="module")
def adapter(root: Path, pipeline: WanPipeline) -> Path:
    """A control adapter: 32 channels in, and a change in a block."""
    dim, rng = pipeline.config.transformer.dim, np.random.default_rng(1)
    shapes = {
        "patch_embedding.lora_A": (RANK, 32, 1, 2, 2), "patch_embedding.lora_B": (dim, RANK, 1, 1, 1),
        "blocks.2.self_attn.v.lora_A": (RANK, dim), "blocks.2.self_attn.v.lora_B": (dim, RANK),
    }  # fmt: skip
    arrays = {
        f"diffusion_model.{name}.weight": rng.standard_normal(shape, np.float32) / 4
        for name, shape in shapes.items()
    }
    arrays["diffusion_model.patch_embedding.reshape_weight"] = np.array([dim, 32, 1, 2, 2])
    return write(root / "control.safetensors", arrays)


def latents_of(pipeline: WanPipeline, **options: object) -> mx.array:
    return pipeline("a cat", **SMALL | options).latents


def difference(one: mx.array, other: mx.array) -> float:
    return mx.abs(one - other).max().item()


def notices_of(pipeline: WanPipeline, **options: object) -> list[str]:
    texts: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            texts.append(event.text)

    latents_of(pipeline, on_event=note, **options)
    return texts


def test_the_control_video_counts_and_only_with_the_adapter(pipeline: WanPipeline, adapter: Path):
    with_one = latents_of(pipeline, loras=[adapter], control_video=VIDEO)
    assert difference(latents_of(pipeline, loras=[adapter], control_video=OTHER), with_one) > 1e-3
    assert mx.array_equal(latents_of(pipeline, loras=[adapter], control_video=VIDEO), with_one)
    with pytest.raises(RequestError, match="Wan2.1 T2V of another size makes videos from text alone"):
        latents_of(pipeline, control_video=VIDEO)


def test_without_a_control_video_the_channels_are_zero_and_it_is_said(pipeline: WanPipeline, adapter: Path):
    texts = notices_of(pipeline, loras=[adapter])
    assert any("widens the input from 16 to 32 channels" in text for text in texts)
    assert any(text.startswith("Without --control-video the model follows the prompt") for text in texts)
    assert not any(
        text.startswith("Without --control-video")
        for text in notices_of(pipeline, loras=[adapter], control_video=VIDEO)
    )


def test_other_inputs_are_refused_by_what_the_adapter_takes(pipeline: WanPipeline, adapter: Path):
    text = "Wan2.1 T2V of another size with a control adapter takes --control-video and nothing else"
    with pytest.raises(RequestError, match=text):
        latents_of(pipeline, loras=[adapter], vace_video=VIDEO)


@pytest.mark.sample(2)
@pytest.mark.parametrize("options", [{}, QUANTIZED], ids=["dense", "4 bits"])
@pytest.mark.parametrize("mode", ["auto", "side"])
def test_streamed_it_is_what_it_is_in_memory(root: Path, adapter: Path, options: dict, mode: str):
    folder = root / f"streamed {len(options)} {mode}"
    own = WanPipeline.from_pretrained(convert_checkpoint(root / "single", folder, dtype="float32", **options))
    chosen = {"loras": [adapter], "control_video": VIDEO, "lora_mode": mode}
    assert own.plan(prompt="a cat", **SMALL, **chosen, stream="on").choices.resident_blocks == 0
    resident = latents_of(own, **chosen, stream="off")
    assert mx.array_equal(latents_of(own, **chosen, stream="on"), resident)
    assert mx.isfinite(resident).all()


def test_baked_it_is_a_model_that_takes_the_video(root: Path, pipeline: WanPipeline, adapter: Path):
    folder = convert_checkpoint(root / "single", root / "baked", dtype="float32", loras=[adapter])
    baked = WanPipeline.from_pretrained(folder)
    assert baked.config.transformer.in_dim == 32
    found = inspect_path(folder)
    assert (found.variant, found.problems, found.missing) == ("wan2.1-t2v", (), ())
    expected = latents_of(pipeline, loras=[adapter], control_video=VIDEO)
    # The same weights; merged before they are stored.
    assert difference(latents_of(baked, control_video=VIDEO), expected) < 1e-5
    assert difference(latents_of(baked, control_video=VIDEO, stream="on"), expected) < 1e-5
    assert difference(latents_of(baked, control_video=OTHER), expected) > 1e-3
    # Once more on top, it changes the wide layer.
    assert difference(latents_of(baked, control_video=VIDEO, loras=[adapter]), expected) > 1e-3


def test_a_converted_folder_is_quantized_with_it(root: Path, adapter: Path):
    at_once = convert_checkpoint(
        root / "single", root / "at once", dtype="float32", loras=[adapter], **QUANTIZED
    )
    packing = {"quantize_only": True, "bits": QUANTIZED["bits"], "group_size": QUANTIZED["group_size"]}
    later = convert_checkpoint(root / "single dense", root / "later", loras=[adapter], **packing)
    found, expected = (
        latents_of(WanPipeline.from_pretrained(folder), control_video=VIDEO) for folder in (later, at_once)
    )
    assert mx.array_equal(found, expected)


@pytest.mark.parametrize("option", ["loras", "loras_high", "loras_low"])
def test_both_experts_take_the_video_of_one(root: Path, adapter: Path, option: str):
    own = WanPipeline.from_pretrained(root / "experts dense")
    chosen = {option: [adapter], "boundary": 0.8, "steps": 3}
    one, other = (latents_of(own, control_video=video, **chosen) for video in (VIDEO, OTHER))
    assert difference(one, other) > 1e-3
    assert mx.array_equal(latents_of(own, control_video=VIDEO, stream="on", **chosen), one)


def test_it_goes_on_after_an_interruption(root: Path, pipeline: WanPipeline, adapter: Path):
    chosen = {"loras": [adapter], "control_video": VIDEO, "output_path": root / "video.webp"}
    expected = latents_of(pipeline, **chosen)

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latents_of(pipeline, on_event=stop, **chosen)
    assert mx.array_equal(latents_of(pipeline, resume=True, **chosen), expected)
