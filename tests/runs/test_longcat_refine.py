"""LongCat-Video's refinement of a finished video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.conditioning import longcat_refine
from mlx_video.conditioning.continuation import longcat_tail
from mlx_video.conditioning.longcat_refine import REFINED_TAIL, count_parts, count_refined, find_start
from mlx_video.request import GenerateRequest, make_request
from mlx_video.variants import longcat_refine as refine_variant
from mlx_video.variants.longcat_sizes import BUCKETS_REFINED, choose_from
from tests.fixtures.longcat_checkpoint import longcat_adapter
from tests.fixtures.tiny_variants import LONGCAT, write_tiny_variant
from tests.fixtures.weight_files import store, write_safetensors

FIRST = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), np.uint8)
SIZE = {"width": 128, "height": 64}
OPTIONS = {**SIZE, "steps": 20, "seed": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refine")


@pytest.fixture(scope="module")
def pipeline(root: Path) -> WanPipeline:
    write_tiny_variant(root / "original", "longcat-video")
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


@pytest.fixture(scope="module")
def adapter(root: Path) -> Path:
    arrays, _ = longcat_adapter(LONGCAT.transformer, strength=0.1)
    path = root / "refinement_lora.safetensors"
    write_safetensors(path, [store(name, values) for name, values in arrays.items()])
    return path


@pytest.mark.parametrize(
    ("given", "shown", "made"), [(93, 186, 189), (13, 26, 29), (8, 13, 13), (96, 189, 189), (1, 2, 13)]
)
def test_frames_are_doubled_and_fill_blocks(given, shown, made):
    assert count_refined(given, 4) == (shown, made)


def test_long_videos_are_refined_in_parts_as_published():
    assert [count_parts(count) for count in (1, 93, 94, 173, 174)] == [1, 1, 2, 2, 3]
    assert [find_start(refined) for refined in (0, 186, 346)] == [0, 80, 160]
    assert count_refined(93, 4, REFINED_TAIL) == (160, 189)
    assert count_refined(20, 4, REFINED_TAIL) == (14, 45)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(480, 832, (1280, 704)), (1, 1, (960, 960)), (832, 480, (704, 1280))]
)
def test_the_size_is_the_nearest_of_720p(height, width, expected):
    assert choose_from(BUCKETS_REFINED, height, width) == expected


def test_a_video_is_refined_from_the_middle_noise_level(pipeline: WanPipeline, adapter: Path):
    texts: list[str] = []
    refined = pipeline(
        "", longcat_refine=FIRST, loras=[adapter], **OPTIONS, on_event=lambda event: texts.append(str(event))
    )
    assert refined.frames.shape == (10, 64, 128, 3)
    assert (refined.latents.shape, refined.fps) == ((16, 4, 8, 16), 30)
    assert refined.settings["recipe"] == "longcat-refine"
    assert any("Recipe longcat-refine: 3 steps" in text for text in texts)
    other = pipeline("", longcat_refine=255 - FIRST, loras=[adapter], **OPTIONS)
    prompted = pipeline("a cat", longcat_refine=FIRST, loras=[adapter], **OPTIONS)
    assert not mx.allclose(other.latents, refined.latents, atol=1e-2)
    assert not mx.allclose(prompted.latents, refined.latents, atol=1e-3)


def test_streamed_blocks_refine_alike_and_a_plan_is_made(pipeline: WanPipeline, adapter: Path):
    options = {"longcat_refine": FIRST, "loras": [adapter], **OPTIONS}
    whole, streamed = (pipeline("", **options, stream=mode).latents for mode in ("off", "on"))
    assert mx.array_equal(whole, streamed)
    assert list(pipeline.plan("", **options).predicted) == ["text", "image", "denoise", "decode"]


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 17 frames in place of 93: what is shared stays."""
    for module in (longcat_refine, refine_variant, longcat_tail):
        monkeypatch.setattr(module, "PART_FRAMES", 17)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_long_video_is_refined_in_parts(short_parts, pipeline: WanPipeline, adapter: Path, tmp_path: Path):
    video = np.random.default_rng(1).integers(0, 256, (20, 20, 24, 3), np.uint8)
    options = {"longcat_refine": video, "loras": [adapter], **OPTIONS, "width": 64}
    whole, path = pipeline("", **options), tmp_path / "a.webp"
    assert whole.frames.shape == (40, 64, 64, 3)
    first = pipeline("", **options | {"longcat_refine": video[:17]})
    assert np.array_equal(whole.frames[:34], first.frames[:34])
    seen = [0]

    def interrupt(event: object) -> None:
        seen[0] += type(event).__name__ == "StepFinished"
        if seen[0] == 4:  # the first step of the second part
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("", **options, output_path=path, on_event=interrupt)
    resumed = pipeline("", **options, output_path=path, resume=True)
    assert np.array_equal(resumed.frames, whole.frames)


@pytest.mark.slow
def test_a_refinement_is_resumed(pipeline: WanPipeline, adapter: Path, tmp_path: Path):
    options = {"longcat_refine": FIRST, "loras": [adapter], **OPTIONS}
    whole, path = pipeline("", **options), tmp_path / "a.webp"

    def interrupt(event: object) -> None:
        if type(event).__name__ == "StepFinished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("", **options, output_path=path, on_event=interrupt)
    resumed = pipeline("", **options, output_path=path, resume=True)
    assert np.array_equal(resumed.frames, whole.frames)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "longcat_refine: needs the adapter that refines"),
        ({"image": FIRST[0]}, "longcat_refine: beside --image"),
        ({"longcat_video": FIRST}, "longcat_refine: beside --longcat-video"),
        ({"loras": ["adapter"], "num_frames": 9}, "num_frames: beside --longcat-refine"),
        ({"loras": ["adapter"], "width": 80}, "width: 80: a refined video has multiples of 64"),
        ({"loras": ["adapter"], "segments": 2}, "segments: 2: --longcat-refine has 5 frames"),
        ({"loras": ["adapter"], "continue_from": FIRST}, "continue_from: beside --longcat-refine"),
        (
            {"loras": ["adapter"], "longcat_refine": None},
            "refines a finished video. Give that with --longcat",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(pipeline: WanPipeline, adapter: Path, options: dict, text: str):
    if "loras" in options:
        options = options | {"loras": [adapter]}
    with pytest.raises(RequestError, match=text):
        pipeline("", **{"longcat_refine": FIRST, **options})


def test_a_part_of_a_refinement_adds_two_frames_for_each_that_it_reads():
    request = make_request(GenerateRequest, {"prompt": "", "longcat_refine": FIRST})
    assert longcat_tail.LONGCAT_TAIL.most_new(request) == 186
    assert longcat_tail.LONGCAT_TAIL.most_new(replace(request, longcat_refine=None)) is None
