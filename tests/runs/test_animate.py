"""Animate's runs: as long and as large as the poses, in segments, and with what other models can do too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, Video, WanPipeline, convert_checkpoint
from mlx_video.conditioning.animate import AnimateAddOn, Face
from mlx_video.events import Notice, StageStarted
from mlx_video.latents.latents_file import load_latents
from mlx_video.media.sources.pick_frames import Picking, pick_frames
from mlx_video.media.sources.source_video import open_video
from mlx_video.models.block_context import Pass
from tests.fixtures.adapter_files import write_relighting_adapter
from tests.fixtures.interruptions import interrupt_in_part
from tests.fixtures.tiny_variants import tiny_variant, write_tiny_variant
from tests.models.animate_networks import FACES, POSE_LATENTS, build_animate
from tests.models.networks import CONCAT_LATENTS, CONTEXT, LATENTS, ONE_IMAGE, at

NAME = "wan2.2-animate-14b"
WIDTH, HEIGHT = 48, 32


def frames(count: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def inputs(count: int, *, is_replacement: bool = False) -> dict[str, Any]:
    """Everything for a video of so many frames."""
    given = {"image": frames(1, 0)[0], "animate_pose_video": frames(count, 1)}
    given["animate_face_video"] = frames(count, 2, 16, 16)
    if is_replacement:
        given["animate_inpaint_video"] = frames(count, 3)
        given["animate_mask_video"] = np.where(np.arange(WIDTH)[:, None] < 20, np.uint8(255), np.uint8(0))
        given["animate_mask_video"] = np.broadcast_to(given["animate_mask_video"], (count, HEIGHT, WIDTH, 3))
    return given


SHORT = {"num_frames": 5, "steps": 2, "seed": 1, "stream": "off"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("animate") / "original"
    write_tiny_variant(path, NAME, num_layers=4)
    # What the published folder holds besides, for preparing the inputs.
    write_relighting_adapter(path / "relighting_lora.ckpt", tiny_variant(NAME).deepened(4).sizes.transformer)
    (path / "process_checkpoint" / "det").mkdir(parents=True)
    (path / "process_checkpoint" / "det" / "yolov10m.onnx").write_bytes(b"\x08\x08")
    flux = path / "process_checkpoint" / "FLUX.1-Kontext-dev"
    (flux / "transformer").mkdir(parents=True)
    (flux / "model_index.json").write_text('{"_class_name": "FluxKontextPipeline"}')
    (flux / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (path / "process_checkpoint" / "sam2").mkdir()
    (path / "process_checkpoint" / "sam2" / "sam2_hiera_large.pt").write_bytes(b"PK\x03\x04")
    return path


@pytest.fixture(scope="module")
def pipeline(original: Path) -> WanPipeline:
    return WanPipeline.from_pretrained(convert_checkpoint(original, original.parent / "m", dtype="float32"))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("poses", "shared", "segments"), [(1, None, 1), (3, 1, 1), (5, 1, 1), (6, 1, 2), (9, 1, 2), (10, None, 3)]
)
def test_a_video_is_as_long_and_as_large_as_its_poses(
    pipeline, poses: int, shared: int | None, segments: int
):
    events: list[Any] = []
    options = {**SHORT, "steps": 1, "continue_frames": shared}
    video = pipeline("a cat", **inputs(poses), **options, on_event=events.append)
    assert video.frames.shape == (poses, HEIGHT, WIDTH, 3)
    assert video.fps == 30
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages.count("denoise") == segments


def test_poses_of_another_size_are_rounded_and_said(pipeline):
    notices: list[str] = []

    def note(event: object) -> None:
        notices.extend([event.text] if isinstance(event, Notice) else [])

    given = inputs(5) | {"animate_pose_video": frames(5, 1, 33, 50)}
    video = pipeline("a cat", **given, **SHORT | {"steps": 1}, on_event=note)
    assert video.frames.shape[1:3] == (32, 48)
    assert any("50x33" in text for text in notices)


def test_later_segments_show_what_is_before_them(pipeline):
    """A change of the first segment's poses alone reaches the second, whose own inputs are the same."""
    given, changed = inputs(9), inputs(9)
    changed["animate_pose_video"] = np.concatenate([frames(4, 7), given["animate_pose_video"][4:]])
    one, other = (pipeline("a cat", **each, **SHORT) for each in (given, changed))
    assert not np.array_equal(one.frames[5:], other.frames[5:])


def test_poses_behind_a_segment_change_nothing_in_it(pipeline):
    given, changed = inputs(9), inputs(9)
    for name in ("animate_pose_video", "animate_face_video"):
        changed[name] = np.concatenate([given[name][:5], 255 - given[name][5:]])
    one, other = (pipeline("a cat", **each, **SHORT) for each in (given, changed))
    assert np.array_equal(one.frames[:5], other.frames[:5])
    assert not np.array_equal(one.frames[5:], other.frames[5:])


@pytest.mark.sample(1)
@pytest.mark.slow
@pytest.mark.parametrize("where", [(1, 1), (2, 0), (2, 1)])
def test_a_replacement_is_resumed_bit_for_bit(pipeline, tmp_path: Path, where: tuple[int, int]):
    options = {**inputs(8, is_replacement=True), **SHORT}
    whole = pipeline("a cat", **options, save_latents=tmp_path / "whole")
    path, latents = tmp_path / "a.webp", tmp_path / "latents"
    with pytest.raises(KeyboardInterrupt):
        pipeline(
            "a cat", **options, output_path=path, save_latents=latents, on_event=interrupt_in_part(*where)
        )
    resumed = pipeline("a cat", **options, output_path=path, save_latents=latents, resume=True)
    assert np.array_equal(resumed.frames, whole.frames)
    assert mx.array_equal(load_latents(latents)[0], load_latents(tmp_path / "whole")[0])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.webp", "latents", "whole"]


@pytest.mark.slow
def test_streamed_segments_are_the_same(pipeline):
    options = {**inputs(8, is_replacement=True), **SHORT}
    resident, streamed = (pipeline("a cat", **options | {"stream": stream}) for stream in ("off", "on"))
    assert np.array_equal(resident.frames, streamed.frames)


@pytest.mark.slow
def test_a_quantized_model_makes_nearly_the_same_and_keeps_what_reads_the_face(pipeline, original, tmp_path):
    path = convert_checkpoint(original, tmp_path / "q", dtype="float32", quantize=True, bits=8)
    quantized = WanPipeline.from_pretrained(path)("a cat", **inputs(5), **SHORT)
    dense = pipeline("a cat", **inputs(5), **SHORT)
    assert not mx.array_equal(quantized.latents, dense.latents)
    error = mx.abs(quantized.latents - dense.latents).max() / mx.abs(dense.latents).max()
    assert error < 0.05
    weights = mx.load(str(path / "model.safetensors"))
    packed = {name.rpartition(".")[0] for name in weights if name.endswith(".scales")}
    assert any("self_attn" in layer for layer in packed)
    assert not any(layer.startswith(("face_", "motion_", "pose_")) for layer in packed)


def test_the_relighting_adapter_is_taken_as_published_and_said_to_be_for_replacements(pipeline, original):
    adapter = original / "relighting_lora.ckpt"
    notices: list[str] = []

    def note(event: object) -> None:
        notices.extend([event.text] if isinstance(event, Notice) else [])

    def make(**options: Any) -> Video:
        notices.clear()
        return pipeline("a cat", **SHORT, **options, strict_lora=True, on_event=note)

    replaced = inputs(5, is_replacement=True)
    plain, relit = make(**replaced), make(**replaced, loras=[adapter])
    assert not mx.array_equal(plain.latents, relit.latents)
    assert not any("takes a person's place" in text for text in notices)
    make(**inputs(5), loras=[adapter])
    assert any("relighting_lora.ckpt" in text and "--animate-inpaint-video" in text for text in notices)


@pytest.mark.parametrize("recipe", ["lightx2v", "lightning"])
def test_distilled_adapters_of_image_to_video_models_serve_with_their_recipe(pipeline, recipe: str):
    options = {name: value for name, value in SHORT.items() if name != "steps"}
    video = pipeline("a cat", **inputs(5), **options, recipe=recipe)
    assert video.settings["steps"] == "4"
    assert video.settings["guide_scale"] == "1.0"


def test_a_video_is_begun_with(pipeline):
    given = inputs(8) | {"input_video": frames(8, 5)}
    kept, changed = (
        pipeline("a cat", **given, **SHORT, denoising_strength=strength) for strength in (0.3, 0.9)
    )
    assert len(kept.frames) == len(changed.frames) == 8
    assert not np.array_equal(kept.frames, changed.frames)


def test_windows_see_the_poses_and_the_face_of_their_frames():
    """What a pass of some frames predicts is what a video of these frames alone makes."""
    network = build_animate()
    faces = [np.uint8(np.round((face + 1) * 127.5)) for face in np.clip(FACES, -1, 1)]
    whole = AnimateAddOn(mx.array(POSE_LATENTS), Face(lambda: iter(faces), len(faces)))
    text = network.project_text(mx.array(CONTEXT), mx.array(ONE_IMAGE))

    def predict(add_on: Any, kept: list[int]) -> mx.array:
        latents, concat = (mx.array(values[:, kept]) for values in (LATENTS, CONCAT_LATENTS))
        (found,) = network.predict(latents, at(500.0), [add_on(network, Pass(text))], concat_latents=concat)
        return found

    assert mx.array_equal(predict(whole.take_frames([0, 1, 2]), [0, 1, 2]), predict(whole, [0, 1, 2]))
    first, second = (predict(whole.take_frames([0, seen]), [0, 1]) for seen in (1, 2))
    assert not mx.allclose(first, second)
    nested = whole.take_frames([0, 2, 1]).take_frames([0, 1])
    assert mx.array_equal(predict(nested, [0, 1]), second)


def test_context_windows_go_over_a_segment(pipeline):
    options = {**inputs(13), **SHORT, "num_frames": 13}
    windowed = pipeline("a cat", **options, context_frames=9, context_overlap=4)
    assert windowed.frames.shape[0] == 13
    assert not np.array_equal(windowed.frames, pipeline("a cat", **options).frames)


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"animate_face_video": frames(4, 2, 16, 16)}, "animate_face_video", "has 4 frames"),
        ({"animate_face_video": None}, "animate_face_video", "missing: Wan2.2 Animate 14B needs it"),
        ({"animate_pose_video": None}, "animate_pose_video", "missing: Wan2.2 Animate 14B needs it"),
        ({"animate_inpaint_video": frames(6, 3)}, "animate_inpaint_video", "needs --animate-mask-video"),
        ({"animate_mask_video": frames(6, 3)}, "animate_mask_video", "needs --animate-inpaint-video"),
        ({"continue_frames": 3}, "continue_frames", "goes on from 1 or 5 frames"),
        ({"continue_frames": 5}, "num_frames", "shows 5 of the one before again. Ask for 9 or more"),
        ({"num_frames": 1}, "num_frames", "shows 1 of the one before again. Ask for 5 or more"),
        ({"continue_from": Video(frames(7, 9), 30)}, "continue_from", "begins where its poses begin"),
        ({"segments": 3}, "segments", "the poses make 6 frames, which makes 2 parts"),
    ],
)
def test_what_does_not_go_together_is_refused(pipeline, changes: dict[str, Any], field: str, text: str):
    options = {name: value for name, value in (inputs(6) | SHORT | changes).items() if value is not None}
    with pytest.raises(RequestError, match=text) as caught:
        pipeline("a cat", **options)
    assert caught.value.field == field


def test_other_inputs_go_back_and_forth_behind_the_last_pose():
    clip = open_video(np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, -1))

    def picked(first: int, count: int, end: int) -> list[int]:
        picking = Picking("face", count, 30, None, first=first, turns_back_at=end)
        return [int(frame[0, 0, 0]) for frame in pick_frames(clip, picking)]

    # Source: Wan2.2 wan/animate.py, WanAnimate.inputs_padding.
    assert picked(0, 11, 5) == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
    assert picked(4, 5, 5) == [4, 3, 2, 1, 0]
    assert picked(0, 6, 2) == [0, 1, 0, 1, 0, 1]
    assert picked(0, 3, 1) == [0, 0, 0]  # where the official code fails
