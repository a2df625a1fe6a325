"""Previews of a run: what they show, where, and that the video is the same with and without."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.api import build_request
from mlx_video.errors import MediaError
from mlx_video.events import Event, Notice, PreviewMade, StageStarted
from mlx_video.files.cache_folder import cache_folder
from mlx_video.latents.colour_tables import WAN21_COLOURS, WAN22_COLOURS
from mlx_video.latents.colours import LatentColours, draw_latents, fit_colours
from mlx_video.latents.decode import to_uint8
from mlx_video.runs import latent_colours
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.sampling import previews
from tests.fixtures.sampling_runs import SMALL, assert_resumes_bit_for_bit, open_deep_model, open_experts
from tests.fixtures.tiny_variants import write_tiny_variant

OPTIONS = SMALL | {"steps": 3}
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_deep_model(tmp_path_factory.mktemp("deep"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    return open_experts(tmp_path_factory.mktemp("experts"))


def watch(pipeline: WanPipeline, **options):
    """A video, and the events on the way to it."""
    events: list[Event] = []
    return pipeline("a cat", on_event=events.append, **(OPTIONS | options)), events


def shown(events: list[Event]) -> list[PreviewMade]:
    return [event for event in events if isinstance(event, PreviewMade)]


def assert_unchanged(pipeline: WanPipeline, **options) -> None:
    """The video is the same, bit for bit, with previews and without."""
    plain = pipeline("a cat", **(OPTIONS | options))
    video, events = watch(pipeline, preview=True, **options)
    assert shown(events)
    assert mx.array_equal(video.latents, plain.latents)
    assert np.array_equal(video.frames, plain.frames)
    assert video.settings == plain.settings


@pytest.mark.sample(2)
@pytest.mark.parametrize("scheduler", ["unipc", "dpm++", "euler", "lcm", "dpmpp_sde", "heun"])
def test_no_number_of_a_run_depends_on_them(pipeline: WanPipeline, scheduler: str):
    assert_unchanged(pipeline, scheduler=scheduler)


def test_nor_of_one_that_is_streamed_or_seen_in_windows(pipeline: WanPipeline):
    assert_unchanged(pipeline, stream="on")
    assert_unchanged(pipeline, num_frames=25, context_frames=9, context_overlap=4)


def test_nor_of_one_with_two_experts(experts: WanPipeline):
    assert_unchanged(experts, boundary=0.95)


def test_nor_of_one_that_is_resumed(pipeline: WanPipeline, tmp_path: Path):
    assert_resumes_bit_for_bit(pipeline, tmp_path, 3, preview=True)


def test_each_is_a_small_frame_for_every_latent_frame(pipeline: WanPipeline):
    video, events = watch(pipeline, num_frames=9, preview=True)
    found = shown(events)
    assert [(event.index, event.total, event.path) for event in found] == [(i, 3, None) for i in range(3)]
    _, frames, height, width = video.latents.shape
    assert {event.frames.shape for event in found} == {(frames, height, width, 3)}
    assert {event.frames.dtype for event in found} == {np.dtype(np.uint8)}
    assert {event.fps for event in found} == {video.fps / 4}
    assert not shown(watch(pipeline)[1])


def test_the_last_shows_the_finished_latents(pipeline: WanPipeline):
    """At the last step of these solvers nothing but the clean latents is left."""
    run_colours = LatentColours(np.random.default_rng(0).uniform(-0.2, 0.2, (17, 3)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_video.runs.stages.colours.find_colours", lambda run: run_colours)
        video, events = watch(pipeline, scheduler="euler", preview=True)
    expected = to_uint8(run_colours(video.latents)).astype(int)
    assert np.abs(shown(events)[-1].frames.astype(int) - expected).max() <= 1
    assert len(np.unique(expected)) > 10


@pytest.fixture(scope="module")
def image_pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("ti2v")
    write_tiny_variant(root / "original", "wan2.2-ti2v-5b")
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


@pytest.mark.nightly
def test_segments_show_theirs_one_after_the_other(image_pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "growing.gif"
    _, events = watch(image_pipeline, image=IMAGE, segments=2, preview=path, output_path=tmp_path / "v.webp")
    assert [event.index for event in shown(events)] == [0, 1, 2, 0, 1, 2]
    assert path.is_file()


def test_a_given_first_frame_stands_in_every_one(image_pipeline: WanPipeline):
    _, events = watch(image_pipeline, image=IMAGE, preview=True)
    firsts = [event.frames[0] for event in shown(events)]
    others = [event.frames[1] for event in shown(events)]
    assert all(np.array_equal(firsts[0], first) for first in firsts)
    assert not np.array_equal(others[0], others[-1])


@pytest.mark.parametrize(("every", "indices"), [(2, [1, 3, 4]), (5, [4]), (9, [4])])
def test_there_is_one_after_every_so_many_steps_and_the_last(
    pipeline: WanPipeline, every: int, indices: list[int]
):
    _, events = watch(pipeline, steps=5, preview=True, preview_every=every)
    assert [event.index for event in shown(events)] == indices


@pytest.mark.parametrize(("suffix", "pictures", "size"), [(".png", 1, (960, 320)), (".webp", 3, (320, 320))])
def test_a_file_is_rewritten_whole_at_each(
    pipeline: WanPipeline, tmp_path: Path, suffix: str, pictures: int, size: tuple[int, int]
):
    path, contents = tmp_path / f"growing{suffix}", []

    def look(event: Event) -> None:
        if isinstance(event, PreviewMade):
            assert event.path == path
            with Image.open(path) as picture:
                assert (picture.size, getattr(picture, "n_frames", 1)) == (size, pictures)
            contents.append((path.stat().st_ino, path.read_bytes()))
            assert [each.name for each in tmp_path.iterdir()] == [path.name]

    pipeline("a cat", on_event=look, **(OPTIONS | {"num_frames": 9, "preview": str(path)}))
    assert len(contents) == len({content for _, content in contents}) == 3
    pipeline("a cat", **(OPTIONS | {"preview": path, "preview_every": 3}))  # over that of the run before


def test_a_file_of_somebody_else_stays(pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "mine.png"
    Image.fromarray(IMAGE).save(path)
    before = path.read_bytes()
    with pytest.raises(RequestError, match="was not made by mlx-video"):
        watch(pipeline, preview=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"preview": "growing.mp4"}, r"growing.mp4: previews are pictures, \.webp, \.gif, \.png"),
        ({"preview": 3}, "3: must be a path"),
        ({"preview": True, "preview_every": 0}, "0: must be at least 1"),
        ({"preview": "same.png", "num_frames": 1, "output_path": "same.png"}, "has the same name"),
    ],
)
def test_what_cannot_be_is_refused_first(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, text: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=text):
        watch(pipeline, **options)
    assert not list(tmp_path.iterdir())


def test_one_that_cannot_be_written_does_not_end_the_run(
    pipeline: WanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise MediaError("the disk is full.")

    monkeypatch.setattr(previews, "write_preview", refuse)
    video, events = watch(pipeline, preview=tmp_path / "growing.png")
    assert video.frames.shape[0] == OPTIONS["num_frames"]
    told = [event.text for event in events if isinstance(event, Notice)]
    assert [text for text in told if "preview" in text] == [
        f"No preview of step {number}. the disk is full." for number in (1, 2, 3)
    ]


# Colours


def test_a_fit_finds_a_linear_map():
    factors = np.random.default_rng(1).uniform(-0.1, 0.1, (17, 3)).astype(np.float32)
    latents = draw_latents(16)
    frames = []
    for each in latents:
        cells = LatentColours(factors)(each)
        frames.append(mx.repeat(mx.repeat(cells, 8, axis=1), 8, axis=2))
    assert np.abs(np.array(frames[0])).max() < 1  # nothing is cut off
    np.testing.assert_allclose(fit_colours(latents, frames).factors, factors, atol=1e-5)


def test_they_are_fitted_once_for_a_vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "cache"))
    pipeline = open_deep_model(tmp_path)
    stages = []
    for _ in range(2):
        events = watch(pipeline, preview=True, preview_every=3, prompt_cache=False)[1]
        stages.append([event.stage for event in events if isinstance(event, StageStarted)])
    assert stages == [["text", "preview", "denoise", "decode"], ["text", "denoise", "decode"]]
    (kept,) = (cache_folder() / "previews").iterdir()
    kept.write_text("damaged")
    plan = pipeline.plan("a cat", **(OPTIONS | {"preview": True}))
    assert plan.predicted["preview"] > 0
    assert "preview" not in pipeline.plan("a cat", **OPTIONS).predicted


def test_a_vae_of_published_width_has_the_published_ones(
    pipeline: WanPipeline, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latent_colours, "read_decoder_width", lambda model, config: 96)
    run = prepare_run(build_request("a cat", OPTIONS | {"preview": True}), pipeline.folder, pipeline.config)
    found = latent_colours.find_colours(run)
    assert found is not None
    assert np.array_equal(found.factors, np.float32(WAN21_COLOURS))
    assert "preview" not in run.memory_plan.predicted
    assert (len(WAN21_COLOURS), len(WAN22_COLOURS)) == (16 + 1, 48 + 1)


def test_a_read_only_cache_costs_a_fit_and_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pipeline = open_deep_model(tmp_path)
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "cache"))
    _, events = watch(pipeline, preview=True, prompt_cache=False, device_check=False)
    assert len(shown(events)) == 3
    assert any("fitted anew in every run" in event.text for event in events if isinstance(event, Notice))
