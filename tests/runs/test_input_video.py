"""Runs that begin with a video: what stays of it, which frames are taken, and what is refused."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.cli import generate
from mlx_video.errors import MediaError
from mlx_video.events import Event, Notice, StageStarted, StepFinished
from mlx_video.latents.encode import encode_video
from mlx_video.latents.latents_file import load_latents
from mlx_video.loading.vae_halves import load_vae_encoder
from mlx_video.media.clip import Video
from mlx_video.media.fit import fit_frame
from mlx_video.media.resize import to_unit_range
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

SMALL = {"width": 32, "height": 16, "num_frames": 5, "steps": 4, "guide_scale": 2.0, "seed": 1}
FRAMES = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    checkpoint = write_tiny_checkpoint(root / "original").path
    return WanPipeline.from_pretrained(convert_checkpoint(checkpoint, root / "tiny", dtype="float32"))


@pytest.fixture(scope="module")
def encoded(pipeline: WanPipeline) -> mx.array:
    """Latents of the frames that a run of five takes."""
    frames = np.stack([to_unit_range(fit_frame(frame, 16, 32)) for frame in FRAMES[:5]])
    return encode_video(load_vae_encoder(pipeline.folder, pipeline.config), mx.array(frames))


def latents_of(pipeline: WanPipeline, video: object = FRAMES, **options) -> mx.array:
    return pipeline("a cat", input_video=video, **SMALL | options).latents


def distance(one: mx.array, other: mx.array) -> float:
    return mx.sqrt(mx.mean((one - other) ** 2)).item()


def test_near_strength_zero_the_video_stays_and_at_one_nothing_of_it(pipeline, encoded):
    found = {strength: latents_of(pipeline, denoising_strength=strength) for strength in (1e-4, 0.3, 1.0)}
    distances = [distance(latents, encoded) for latents in found.values()]
    assert distances[0] < 0.02
    assert distances == sorted(distances)
    without = pipeline("a cat", **SMALL).latents
    assert mx.array_equal(found[1.0], without)


def test_at_strength_zero_the_video_goes_through_the_vae_alone(pipeline, encoded, tmp_path: Path):
    events: list[Event] = []
    found = pipeline(
        "a cat",
        input_video=FRAMES,
        denoising_strength=0,
        save_latents=tmp_path / "a.safetensors",
        on_event=events.append,
        **SMALL,
    )
    assert mx.array_equal(found.latents, encoded)
    assert mx.array_equal(load_latents(tmp_path / "a.safetensors")[0], encoded)
    decoded = pipeline.decode(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(found.frames, decoded.frames)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["image", "decode"]
    assert [
        stage.name
        for stage in pipeline.plan("a cat", input_video=FRAMES, denoising_strength=0, **SMALL).stages
    ] == stages
    assert any(isinstance(event, Notice) and "no step is taken" in event.text for event in events)


def test_at_strength_zero_references_are_left_out_and_no_expert_is_opened(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", "wan2.2-vace-fun-a14b")
    pipeline = WanPipeline.from_pretrained(
        convert_checkpoint(tmp_path / "original", tmp_path / "m", dtype="float32")
    )
    options = SMALL | {"input_video": FRAMES, "denoising_strength": 0}
    found = pipeline("a cat", vace_reference_image=[FRAMES[0]], **options).latents
    assert mx.array_equal(found, pipeline("a cat", **options).latents)


def test_the_size_follows_the_video_where_none_is_given(pipeline):
    sizes = {name: SMALL[name] for name in ("num_frames", "steps", "seed")}
    plans = {
        shape: str(pipeline.plan("a cat", input_video=np.zeros((5, *shape, 3), np.uint8), **sizes))
        for shape in ((90, 160), (160, 90))
    }
    assert "Size 832x464 follows the video's shape" in plans[90, 160]
    assert "Size 464x832 follows the video's shape" in plans[160, 90]
    half = pipeline.plan("a cat", input_video=FRAMES, height=48, **sizes)
    assert "The video (32x24) is resized and cut at the centre to 64x48." in str(half)
    with pytest.raises(RequestError, match="input_video: 4000x2 pixels: too long and thin"):
        pipeline.plan("a cat", input_video=np.zeros((5, 2, 4000, 3), np.uint8), **sizes)


def test_the_video_meets_the_size_as_the_user_says(pipeline):
    options = SMALL | {"denoising_strength": 0}
    encoder = load_vae_encoder(pipeline.folder, pipeline.config)
    for fit in ("cover", "letterbox", "stretch"):
        frames = np.stack([to_unit_range(fit_frame(frame, 16, 32, fit)) for frame in FRAMES[:5]])
        found = pipeline("a cat", input_video=FRAMES, fit=fit, **options)
        assert mx.array_equal(found.latents, encode_video(encoder, mx.array(frames))), fit
        assert found.settings["fit"] == fit
    assert "fit" not in pipeline("a cat", **SMALL).settings


def test_another_video_makes_another_result(pipeline):
    assert distance(
        *(latents_of(pipeline, frames, denoising_strength=0.5) for frames in (FRAMES, 255 - FRAMES))
    )


@pytest.mark.parametrize("scheduler", ["unipc", "dpm++", "euler"])
def test_every_solver_takes_all_steps(pipeline, encoded, scheduler):
    events = []
    latents = pipeline(
        "a cat",
        input_video=FRAMES,
        denoising_strength=1e-3,
        scheduler=scheduler,
        on_event=events.append,
        **SMALL,
    ).latents
    assert sum(isinstance(event, StepFinished) for event in events) == SMALL["steps"]
    assert distance(latents, encoded) < 0.1


def test_every_form_of_a_video_gives_the_same(pipeline, tmp_path: Path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{number}.png")
    expected = latents_of(pipeline, denoising_strength=0.5)
    forms = {
        "folder": folder,
        "text": str(folder),
        "pictures": [Image.fromarray(frame) for frame in FRAMES],
        "video": Video(FRAMES, 16),
    }
    for form, video in forms.items():
        assert mx.array_equal(latents_of(pipeline, video, denoising_strength=0.5), expected), form


def test_frames_are_picked_for_the_models_rate(pipeline):
    every_second = latents_of(pipeline, Video(FRAMES[::2], 16), denoising_strength=0.5)
    fast = latents_of(pipeline, Video(FRAMES, 32), denoising_strength=0.5)
    stated = latents_of(pipeline, FRAMES, denoising_strength=0.5, video_fps=32)
    assert mx.array_equal(fast, every_second)
    assert mx.array_equal(stated, every_second)


def test_a_run_is_resumed_bit_for_bit_and_not_with_another_video(pipeline, tmp_path: Path):
    class Interrupted(Exception):
        pass

    def stop(event) -> None:
        if isinstance(event, StepFinished) and event.index == 1:
            raise Interrupted

    options = SMALL | {"denoising_strength": 0.6, "output_path": tmp_path / "a.webp"}
    with pytest.raises(Interrupted):
        pipeline("a cat", input_video=FRAMES, on_event=stop, **options)
    with pytest.raises(RequestError, match="is of another run: --input-video is"):
        pipeline("a cat", input_video=255 - FRAMES, resume=True, **options)
    resumed = pipeline("a cat", input_video=FRAMES, resume=True, **options)
    whole = latents_of(pipeline, denoising_strength=0.6)
    assert mx.array_equal(resumed.latents, whole)
    assert resumed.settings["input_video"] == "array uint8 [9, 24, 32, 3]"
    assert resumed.settings["denoising_strength"] == "0.6"


def test_two_experts_say_when_the_high_noise_one_never_serves(tmp_path: Path):
    write_tiny_variant(tmp_path / "original", "wan2.2-t2v-a14b")
    pipeline = WanPipeline.from_pretrained(
        convert_checkpoint(tmp_path / "original", tmp_path / "m", dtype="float32")
    )
    events = []
    pipeline("a cat", input_video=FRAMES, denoising_strength=0.1, on_event=events.append, **SMALL)
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert any("the high-noise expert serves 0, then the low-noise expert 4" in text for text in texts)


def test_memory_is_planned_with_the_encoder(pipeline):
    with_video = pipeline.plan("a cat", input_video=FRAMES, denoising_strength=0.5, **SMALL)
    assert [stage.name for stage in with_video.stages] == ["text", "image", "denoise", "decode"]
    assert [stage.name for stage in pipeline.plan("a cat", **SMALL).stages] == ["text", "denoise", "decode"]


# What is told, and refused


def notices_of(pipeline, **options) -> list[str]:
    events = []
    pipeline("a cat", on_event=events.append, **SMALL | options)
    return [event.text for event in events if isinstance(event, Notice)]


def test_rate_and_length_and_an_idle_video_are_told(pipeline):
    texts = notices_of(pipeline, input_video=Video(FRAMES, 32))
    assert "video of 9 frames has 32 frames per second: 5 of its first 9 are picked for 16." in texts
    assert any("At --denoising-strength 1 nothing of --input-video stays" in text for text in texts)
    texts = notices_of(pipeline, input_video=FRAMES, denoising_strength=0.5)
    assert any("is longer than needed: its first 5 frames are used" in text for text in texts)


def test_what_cannot_be_is_refused_before_anything_is_loaded(pipeline, tmp_path: Path):
    cases = [
        ({"denoising_strength": 0.5}, "denoising_strength: 0.5: needs --input-video"),
        ({"denoising_strength": 0.0}, "denoising_strength: 0: needs --input-video"),
        ({"input_video": FRAMES, "denoising_strength": -0.1}, "must be between 0 and 1"),
        ({"input_video": FRAMES, "denoising_strength": 1.5}, "must be between 0 and 1"),
        ({"input_video": FRAMES[:3], "denoising_strength": 0.5}, "has 3 frames, 5 are needed for 5 at 16"),
        ({"input_video": FRAMES, "video_fps": 0}, "video_fps: 0: must be a positive number"),
        ({"input_video": 7}, "input_video: 7: must be a path"),
    ]
    for options, message in cases:
        with pytest.raises(RequestError, match=message):
            pipeline("a cat", **SMALL | options)
    with pytest.raises(MediaError, match="none.mp4: no such file or folder"):
        pipeline("a cat", input_video=tmp_path / "none.mp4", **SMALL)


def test_the_command_begins_with_a_video_and_does_not_write_over_it(pipeline, tmp_path: Path, capsys):
    clip = tmp_path / "clip.webp"
    Video(FRAMES, 16, settings={"prompt": "a", "seed": "1"}).save(clip)
    words = ["--model-dir", str(pipeline.folder.path), "--prompt", "a cat", "--steps", "2", "--width", "32"]
    words += [
        "--height",
        "16",
        "--num-frames",
        "5",
        "--input-video",
        str(clip),
        "--denoising-strength",
        "0.5",
    ]
    assert generate.main([*words, "--output-path", str(tmp_path / "a.webp")]) == 0
    assert (tmp_path / "a.webp").exists()
    assert generate.main([*words, "--output-path", str(clip)]) == 2
    assert "--output-path" in capsys.readouterr().err
