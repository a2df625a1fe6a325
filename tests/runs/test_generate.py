"""From a converted folder to a video: files, settings, failures."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import MLXVideoError, RequestError, WanPipeline, convert_checkpoint
from mlx_video.conditioning.text import load_tokenizer
from mlx_video.errors import CheckpointError, MediaError, NonFiniteError
from mlx_video.events import FramesDecoded, Notice, StageFinished, StageStarted, StepFinished
from mlx_video.latents.latents_file import load_latents
from mlx_video.layouts.model_folder import open_model_folder
from mlx_video.loading.residency import release_memory
from mlx_video.media.video import read_frames, read_video_metadata
from mlx_video.models.transformer import WanTransformer
from mlx_video.runs import inputs
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

SMALL = {"width": 48, "height": 32, "num_frames": 5, "steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    checkpoint = write_tiny_checkpoint(root / "original")
    return convert_checkpoint(checkpoint.path, root / "converted", dtype="float32")


@pytest.fixture
def pipeline(folder: Path) -> WanPipeline:
    return WanPipeline.from_pretrained(folder)


def make(pipeline: WanPipeline, **options):
    return pipeline("a cat", **(SMALL | options))


def test_a_video_has_the_frames_latents_and_settings_asked_for(pipeline: WanPipeline):
    video = make(pipeline)
    assert video.frames.shape == (5, 32, 48, 3)
    assert video.frames.dtype == np.uint8
    assert video.latents.shape == (16, 2, 4, 6)
    assert video.latents.dtype == mx.float32
    assert video.settings["prompt"] == "a cat"
    assert video.settings["seed"] == "1"


def test_a_seed_fixes_the_video_and_another_seed_changes_it(pipeline: WanPipeline):
    first, again, other = make(pipeline), make(pipeline), make(pipeline, seed=2)
    assert np.array_equal(first.frames, again.frames)
    assert mx.array_equal(first.latents, again.latents)
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["prompt", "negative_prompt", "guide_scale", "shift", "scheduler", "noise", "steps"]
)
def test_every_sampling_option_reaches_the_video(pipeline: WanPipeline, option: str):
    values = {
        "prompt": "two dogs", "negative_prompt": "", "guide_scale": 3.0, "shift": 2.0, "scheduler": "euler",
        "noise": "mlx", "steps": 3,
    }  # fmt: skip
    options = SMALL | {"prompt": "a cat"}
    changed = pipeline(**(options | {option: values[option]}))
    assert not mx.array_equal(changed.latents, pipeline(**options).latents)


def test_stages_come_in_order_and_release_their_memory(folder: Path):
    pipeline = WanPipeline.from_pretrained(folder, keep_networks=False)
    release_memory()
    before, events = mx.get_active_memory(), []
    make(pipeline, on_event=events.append)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["text", "denoise", "decode"]
    assert [event.stage for event in events if isinstance(event, StageFinished)] == stages
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert [(step.index, step.total) for step in steps] == [(0, 2), (1, 2)]
    assert [event.done for event in events if isinstance(event, FramesDecoded)][-1] == 5
    del events, steps
    release_memory()
    assert mx.get_active_memory() - before < 100_000


def test_every_file_asked_for_holds_the_same_video(pipeline: WanPipeline, tmp_path: Path):
    video = make(
        pipeline,
        output_path=tmp_path / "new" / "video.mp4",
        save_frames=tmp_path / "frames",
        save_latents=tmp_path / "latents.safetensors",
    )
    written = read_frames(tmp_path / "new" / "video.mp4")
    assert written.shape == video.frames.shape
    assert read_video_metadata(tmp_path / "new" / "video.mp4") == video.settings
    assert len(list((tmp_path / "frames").glob("*.png"))) == 5
    latents, settings = load_latents(tmp_path / "latents.safetensors")
    assert mx.array_equal(latents, video.latents)
    assert settings == video.settings


@pytest.mark.parametrize("name", ["video.gif", "video.webp"])
def test_the_ending_chooses_the_format(pipeline: WanPipeline, tmp_path: Path, name: str):
    make(pipeline, output_path=tmp_path / name)
    assert read_frames(tmp_path / name).shape[1:] == (32, 48, 3)


def test_trimming_drops_frames_at_the_start(pipeline: WanPipeline, tmp_path: Path):
    whole, trimmed = make(pipeline), make(pipeline, trim_first_frames=2, output_path=tmp_path / "a.mp4")
    assert np.array_equal(trimmed.frames, whole.frames[2:])
    assert len(read_frames(tmp_path / "a.mp4")) == 3


def test_guide_scale_one_makes_half_the_forward_passes(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    calls, predict = [], WanTransformer.predict

    def counted(self, latents, step, passes, **options):
        calls.extend(passes)
        return predict(self, latents, step, passes, **options)

    monkeypatch.setattr(WanTransformer, "predict", counted)
    make(pipeline, guide_scale=1.0)
    assert len(calls) == 2
    make(pipeline, guide_scale=1.5)
    assert len(calls) == 6


def test_latents_that_stop_being_finite_stop_the_run_and_write_nothing(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    predict = WanTransformer.predict
    monkeypatch.setattr(
        WanTransformer,
        "predict",
        lambda *rest, **options: [one * float("nan") for one in predict(*rest, **options)],
    )
    with pytest.raises(NonFiniteError, match="step 1 of 2"):
        make(pipeline, output_path=tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_debug_latents_reports_statistics_after_each_step(pipeline: WanPipeline):
    events = []
    make(pipeline, debug_latents=True, on_event=events.append)
    notes = [event.text for event in events if isinstance(event, Notice)]
    assert len(notes) == 2
    assert "step 1: timestep 999.0, latents mean" in notes[0]


@pytest.mark.parametrize("settings", [{"bits": 8}, {"bits": 4, "group_size": 32}], ids=str)
def test_a_quantized_model_stays_close_to_the_dense_one(
    pipeline: WanPipeline, folder: Path, tmp_path: Path, settings: dict
):
    quantized = convert_checkpoint(folder, tmp_path / "q", quantize_only=True, quantize=True, **settings)
    dense = make(pipeline, steps=1, guide_scale=1.0)
    small = make(WanPipeline.from_pretrained(quantized), steps=1, guide_scale=1.0)
    error = mx.sqrt(mx.mean((small.latents - dense.latents) ** 2) / mx.mean(dense.latents**2)).item()
    # One guided step of a random network; 8 bits lose about a thousandth, 4 bits some hundredths.
    assert 0 < error < (0.02 if settings["bits"] == 8 else 0.3)


def test_bfloat16_weights_stay_close_to_float32(pipeline: WanPipeline, tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "original")
    half = convert_checkpoint(checkpoint.path, tmp_path / "half")
    dense, rounded = make(pipeline), make(WanPipeline.from_pretrained(half))
    error = mx.sqrt(mx.mean((rounded.latents - dense.latents) ** 2) / mx.mean(dense.latents**2)).item()
    assert 0 < error < 0.1


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_frames": 6}, RequestError, "Nearest: 5 or 9"),
        ({"output_path": "video.avi"}, RequestError, "output_path"),
        ({"colour": "red"}, RequestError, "colour: unknown option. Known: .*boundary, "),
        ({"output_path": "/proc/video.mp4"}, MediaError, "/proc"),
        ({"save_latents": "/proc/latents.safetensors"}, MediaError, "/proc"),
        ({"save_latents": "/"}, MediaError, "is a folder, and a file needs this name"),
        ({"output_path": "a.mp4", "save_latents": "./a.mp4"}, RequestError, "output-path has the same name"),
        ({"output_path": "a.mp4", "save_frames": "a.mp4"}, RequestError, "--output-path has the same name"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_runs(
    pipeline: WanPipeline, options: dict, error: type[MLXVideoError], text: str
):
    events = []
    with pytest.raises(error, match=text):
        make(pipeline, on_event=events.append, **options)
    assert events == []


def test_a_refused_request_makes_no_folder(pipeline: WanPipeline, tmp_path: Path):
    with pytest.raises(RequestError, match="Nearest: 5 or 9"):
        make(pipeline, num_frames=6, output_path=tmp_path / "new" / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def truncate(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate((folder / name).stat().st_size - 10)


def make_dual(folder: Path) -> None:
    for name in ("low_noise_model", "high_noise_model"):
        shutil.copy(folder / "model.safetensors", folder / f"{name}.safetensors")
    (folder / "model.safetensors").unlink()


def keep_the_encoder_alone(folder: Path) -> None:
    tensors = mx.load(str(folder / "vae.safetensors"))
    half = {name: array for name, array in tensors.items() if name.startswith(("encoder.", "conv1."))}
    mx.save_safetensors(str(folder / "half.safetensors"), half)
    (folder / "half.safetensors").rename(folder / "vae.safetensors")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (partial(truncate, name="vae.safetensors"), "vae.safetensors: .* on disk, header promises"),
        (partial(truncate, name="model.safetensors"), "model.safetensors: .* on disk, header promises"),
        (lambda f: shutil.copy(f / "t5_encoder.safetensors", f / "vae.safetensors"), "so this is no Wan VAE"),
        (keep_the_encoder_alone, "there is no VAE decoder to make frames"),
        (make_dual, "dual_model is false, but the folder holds low_noise_model.safetensors and high_noise"),
    ],
)
def test_a_damaged_folder_is_refused_before_anything_runs(folder: Path, tmp_path: Path, damage, text: str):
    copy, events = shutil.copytree(folder, tmp_path / "copy"), []
    damage(copy)
    with pytest.raises(MLXVideoError, match=text):
        make(WanPipeline.from_pretrained(copy), on_event=events.append)
    assert events == []


def test_a_prompt_whose_end_is_not_read_is_reported(pipeline: WanPipeline):
    def notices(prompt: str) -> list[str]:
        events = []
        pipeline(prompt, on_event=events.append, **(SMALL | {"steps": 1, "num_frames": 1}))
        return [event.text for event in events if isinstance(event, Notice)]

    # The tiny model reads 24 tokens, the end token among them; its tokenizer knows these words.
    assert notices("A red circle moves left") == []
    (text,) = notices("red circle " * 12)
    assert text == "The prompt has 25 tokens, the model reads 24: its end is left out."


def test_an_empty_prompt_is_encoded_as_the_end_of_a_text_alone(pipeline: WanPipeline, monkeypatch):
    given = []
    encode = inputs.run_text_encoder

    def noted(run, texts):
        given.extend(texts)
        return encode(run, texts)

    monkeypatch.setattr(inputs, "run_text_encoder", noted)
    options = SMALL | {"steps": 1, "num_frames": 1, "prompt_cache": False, "guide_scale": 1.0}
    empty, spaces = pipeline("", **options), pipeline(" \n", **options)
    tokenizer = load_tokenizer(pipeline.folder.tokenizer)
    assert given == [[tokenizer.end_id]] * 2
    assert mx.array_equal(empty.latents, spaces.latents)
    assert not mx.array_equal(empty.latents, pipeline("a cat", **options).latents)


def test_an_empty_prompt_is_planned_as_such_and_an_absent_one_as_the_longest(pipeline: WanPipeline):
    size = {"width": 48, "height": 32, "num_frames": 5}
    text = [pipeline.plan(*prompt, **size).predicted["text"] for prompt in ([""], ["a cat"], [])]
    assert text[0] < text[1] < text[2]


@pytest.mark.parametrize("noise", ["torch", "mlx"])
def test_a_seed_beyond_63_bits_makes_a_video_of_its_own(pipeline: WanPipeline, noise: str):
    options = {"noise": noise, "steps": 1, "num_frames": 1}
    largest = make(pipeline, seed=2**64 - 1, **options)
    assert largest.settings["seed"] == "18446744073709551615"
    assert mx.array_equal(
        make(pipeline, seed=2**64 - 2, **options).latents, make(pipeline, seed=-2, **options).latents
    )
    assert not mx.array_equal(make(pipeline, seed=2**64 - 2, **options).latents, largest.latents)


def test_a_folder_without_a_tokenizer_is_refused_with_the_cure(tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "original")
    folder = convert_checkpoint(checkpoint.path, tmp_path / "converted")
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    assert open_model_folder(folder).tokenizer is None
    with pytest.raises(CheckpointError, match="Copy the files of google/umt5-xxl"):
        make(WanPipeline.from_pretrained(folder))


def test_fused_and_plain_operations_agree(pipeline: WanPipeline):
    fused, plain = make(pipeline, compile=True), make(pipeline, compile=False)
    assert mx.allclose(fused.latents, plain.latents, atol=1e-4).item()
