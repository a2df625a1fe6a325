"""The tiny decoder through the whole work: found in files, shown in previews, and in place of the VAE."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import CheckpointError, RequestError, WanPipeline, convert_checkpoint
from mlx_video.events import Event, PreviewMade, StageFinished, StageStarted, StateSaved
from mlx_video.inspect.path import inspect_path
from mlx_video.latents.decode import to_uint8
from mlx_video.latents.tiny_decode import decode_tiny
from mlx_video.loading.residency import release_memory
from mlx_video.media.video import read_video_metadata
from mlx_video.models.vae.tiny import PREVIEW, WHOLE
from mlx_video.planning.tiny_memory import tiny_peak_bytes
from mlx_video.planning.vae_layers import Frame
from tests.fixtures.measured_peak import measured
from tests.fixtures.sampling_runs import Interrupted
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.weight_files import round_to, store, write_safetensors, write_torch_archive
from tests.models.vae.tiny_decoder import SMALL_21, SMALL_22, build, encoder_tensors, random_weights

OPTIONS = {"width": 48, "height": 32, "num_frames": 9, "steps": 2, "seed": 1, "guide_scale": 1.0}
WEIGHTS = {name: round_to(values, "F16") for name, values in random_weights(SMALL_21).items()}
WEIGHT_BYTES = 4 * sum(values.size for values in WEIGHTS.values())


def write_file(path: Path, weights: dict[str, np.ndarray] = WEIGHTS, config=SMALL_21) -> Path:
    """A file as it is published: float16, with the encoder."""
    encoder = {name: np.zeros(shape, np.float32) for name, shape in encoder_tensors(config).items()}
    tensors = [store(name, values, "F16") for name, values in {**encoder, **weights}.items()]
    (write_torch_archive if path.suffix == ".pth" else write_safetensors)(path, tensors)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint = write_tiny_checkpoint(folder / "original").path
    convert_checkpoint(checkpoint, folder / "model", dtype="float32")
    write_file(folder / "taew2_1.pth")
    write_file(folder / "taew2_1.safetensors")
    return folder


@pytest.fixture(params=["taew2_1.pth", "taew2_1.safetensors"])
def pipeline(root: Path, request: pytest.FixtureRequest) -> WanPipeline:
    return WanPipeline.from_pretrained(root / "model", tiny_vae=root / request.param, keep_networks=False)


@pytest.fixture(scope="module")
def plain(root: Path) -> WanPipeline:
    return WanPipeline.from_pretrained(root / "model", keep_networks=False)


def expected_frames(latents: mx.array, form=WHOLE) -> np.ndarray:
    return to_uint8(mx.concatenate(list(decode_tiny(build(SMALL_21, WEIGHTS), latents, form))))


def test_it_makes_the_video_in_place_of_the_vae(pipeline: WanPipeline, plain: WanPipeline, tmp_path: Path):
    path = tmp_path / "video.webp"
    video, other = pipeline("a cat", decoder="tiny", output_path=path, **OPTIONS), plain("a cat", **OPTIONS)
    assert mx.array_equal(video.latents, other.latents)
    assert np.array_equal(video.frames, expected_frames(video.latents))
    assert video.frames.shape == other.frames.shape
    assert not np.array_equal(video.frames, other.frames)
    assert video.settings == {**other.settings, "decoder": "tiny"}
    assert read_video_metadata(path)["decoder"] == "tiny"


def test_it_decodes_latents_that_are_there(pipeline: WanPipeline, tmp_path: Path):
    file = tmp_path / "latents.safetensors"
    video = pipeline("a cat", decoder="tiny", save_latents=file, **OPTIONS)
    again, by_vae = pipeline.decode(file, decoder="tiny"), pipeline.decode(file)
    assert np.array_equal(again.frames, video.frames)
    assert again.settings["decoder"] == "tiny"
    assert "decoder" not in by_vae.settings
    assert not np.array_equal(by_vae.frames, video.frames)


def test_it_makes_the_previews_where_its_file_is_given(pipeline: WanPipeline, plain: WanPipeline):
    events: list[Event] = []
    video = pipeline("a cat", preview=True, scheduler="euler", on_event=events.append, **OPTIONS)
    assert mx.array_equal(video.latents, plain("a cat", scheduler="euler", **OPTIONS).latents)
    assert "preview" not in [event.stage for event in events if isinstance(event, StageStarted)]
    last = [event for event in events if isinstance(event, PreviewMade)][-1].frames
    assert last.shape == (3, 16, 24, 3)
    # Nothing is left at the last step but the clean latents, which rounding alone tells from those.
    assert np.abs(last.astype(int) - expected_frames(video.latents, PREVIEW)).max() <= 1


def test_it_is_converted_with_a_checkpoint(root: Path, tmp_path: Path):
    folder = convert_checkpoint(
        root / "original", tmp_path / "model", dtype="float32", tiny_vae=root / "taew2_1.pth"
    )
    assert (folder / "tiny_vae.safetensors").is_file()
    video = WanPipeline.from_pretrained(folder)("a cat", decoder="tiny", **OPTIONS)
    assert np.array_equal(video.frames, expected_frames(video.latents))


@pytest.mark.parametrize("name", ["taew2_1.pth", "taew2_1.safetensors"])
def test_its_file_is_recognised(root: Path, name: str):
    found = inspect_path(root / name)
    (part,) = found.parts
    assert (part.component, part.model) == ("tiny_vae", "tiny decoder of 16 latent channels")
    assert found.problems == ()


def test_the_plan_counts_it(pipeline: WanPipeline, plain: WanPipeline):
    by_vae, by_tiny = plain.plan("a cat", **OPTIONS), pipeline.plan("a cat", decoder="tiny", **OPTIONS)
    assert "tiny decoder, frame by frame" in str(by_tiny)
    frame = Frame(4, 6)
    assert by_tiny.predicted["decode"] == WEIGHT_BYTES + tiny_peak_bytes(SMALL_21, frame)
    assert pipeline.plan("a cat", **OPTIONS).predicted == by_vae.predicted
    shown = pipeline.plan("a cat", preview=True, **OPTIONS)
    assert shown.predicted["denoise"] >= by_vae.predicted["denoise"] + WEIGHT_BYTES


@pytest.mark.parametrize("form", [WHOLE, PREVIEW], ids=["whole", "preview"])
def test_it_takes_the_memory_that_is_planned(form):
    decoder, latents = build(SMALL_21, WEIGHTS), mx.random.normal((16, 4, 40, 48), key=mx.random.key(0))
    mx.eval(decoder.parameters(), latents)

    def decode() -> None:
        for _ in decode_tiny(decoder, latents, form):
            pass

    found, planned = measured(decode), tiny_peak_bytes(SMALL_21, Frame(40, 48), form)
    assert 0.8 * planned <= found <= 1.02 * planned


def test_a_run_measures_no_more_than_its_plan(pipeline: WanPipeline):
    events: list[Event] = []
    options = OPTIONS | {"width": 256, "height": 256}
    release_memory()
    before = mx.get_active_memory()  # what other tests hold
    pipeline("a cat", decoder="tiny", preview=True, on_event=events.append, **options)
    planned = pipeline.plan("a cat", decoder="tiny", preview=True, **options).predicted
    peaks = {event.stage: event.peak_bytes for event in events if isinstance(event, StageFinished)}
    assert all(peaks[stage] - before <= 1.05 * planned[stage] for stage in ("denoise", "decode"))


def test_it_decides_nothing_of_a_resumed_run(pipeline: WanPipeline, plain: WanPipeline, tmp_path: Path):
    output, saved = tmp_path / "video.webp", []

    def note(event: Event) -> None:
        if isinstance(event, StateSaved):
            saved.append(event)

    def stop(event: Event) -> None:
        if isinstance(event, StateSaved):
            raise Interrupted

    with pytest.raises(Interrupted):
        plain("a cat", output_path=output, on_event=stop, **OPTIONS)
    video = pipeline("a cat", output_path=output, decoder="tiny", resume=True, on_event=note, **OPTIONS)
    assert [event.done for event in saved] == [1, 2]
    assert mx.array_equal(video.latents, plain("a cat", **OPTIONS).latents)
    command = saved[-1].resume_hint.command.partition("mlx_video.generate_wan ")[2]
    assert re.search(r" --tiny-vae \S+/taew2_1\.\w+", command)
    assert " --decoder tiny" in command


# Refusals


def test_a_run_that_has_none_says_which_it_needs(plain: WanPipeline, tmp_path: Path):
    with pytest.raises(RequestError, match=r"decoder: tiny: .* has no tiny decoder. Give taew2_1 as --tiny"):
        plain("a cat", decoder="tiny", **OPTIONS)
    file = tmp_path / "latents.safetensors"
    plain("a cat", save_latents=file, **OPTIONS)
    with pytest.raises(RequestError, match="has no tiny decoder"):
        plain.decode(file, decoder="tiny")


def test_one_of_other_latents_is_refused(root: Path, tmp_path: Path):
    file = write_file(tmp_path / "taew2_2.safetensors", random_weights(SMALL_22), SMALL_22)
    other = WanPipeline.from_pretrained(root / "model", tiny_vae=file)
    text = r"taew2_2.safetensors: is a tiny decoder of 48 latent channels and 16 pixels a cell, .* 16 and 8"
    for options in ({}, {"decoder": "tiny"}, {"preview": True}):
        with pytest.raises(CheckpointError, match=text):
            other("a cat", **OPTIONS, **options)
    with pytest.raises(CheckpointError, match=text):
        convert_checkpoint(root / "original", tmp_path / "model", tiny_vae=file)


def test_the_larger_form_is_told_by_its_tensors(root: Path, tmp_path: Path):
    names = [f"decoder.{index}.conv.weight" for index in (7, 14, 21)]
    tensors = {name: np.zeros((8, 8, 1, 1), np.float32) for name in (*names, "decoder.1.conv.0.weight")}
    tensors["decoder.22.weight"] = np.zeros((12, 8, 3, 3), np.float32)
    file = tmp_path / "taew2_2_super.safetensors"
    write_safetensors(file, [store(name, values) for name, values in tensors.items()])
    pipeline = WanPipeline.from_pretrained(root / "model", tiny_vae=file)
    with pytest.raises(CheckpointError, match=r"larger form of the tiny decoder \(super\). Give taew2_1 or"):
        pipeline("a cat", decoder="tiny", **OPTIONS)


@pytest.mark.parametrize("name", sorted(WEIGHTS)[::7])
def test_a_file_that_lacks_a_tensor_is_refused_before_any_work(root: Path, tmp_path: Path, name: str):
    rest = {other: values for other, values in WEIGHTS.items() if other != name}
    file = write_file(tmp_path / "taew2_1.safetensors", rest)
    with pytest.raises((CheckpointError, RequestError), match=r"taew2_1.safetensors: .*"):
        WanPipeline.from_pretrained(root / "model", tiny_vae=file)("a cat", decoder="tiny", **OPTIONS)


def test_another_part_in_its_place_is_refused(root: Path):
    with pytest.raises(RequestError, match="holds another part .*VAE.*Give the file of the tiny decoder"):
        WanPipeline.from_pretrained(root / "model", tiny_vae=root / "model" / "vae.safetensors")
    moved = shutil.copy(root / "taew2_1.pth", root / "vae.pth")
    with pytest.raises(RequestError, match="holds another part"):
        WanPipeline.from_pretrained(root / "model", vae=moved)
