"""LongCat-Video's ways to begin a video, and to go on from one."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, Video, WanPipeline, convert_checkpoint
from mlx_video.media.resize import resize_lanczos, to_unit_range
from mlx_video.media.sources.last_frames import read_last_frames
from mlx_video.media.sources.source_video import open_video
from mlx_video.variants.longcat_sizes import LARGEST_480P, choose_bucket
from tests.fixtures.tiny_variants import write_tiny_variant

EARLIER = np.random.default_rng(0).integers(0, 256, (15, 32, 48, 3), np.uint8)
SIZE = {"width": 48, "height": 32}
SHORT = {"num_frames": 9, "steps": 2, "guide_scale": 1.0, "seed": 1}
TAIL = 5  # about half of nine frames


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("longcat")


@pytest.fixture(scope="module")
def pipeline(root: Path) -> WanPipeline:
    write_tiny_variant(root / "original", "longcat-video")
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


def latents(pipeline: WanPipeline, **options) -> mx.array:
    return pipeline("a cat", **SIZE | SHORT | options).latents


def test_frames_are_counted_back_from_the_last_at_the_models_rate():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, -1)

    def taken(count: int, video_fps: float | None = None) -> list[int]:
        found = read_last_frames(open_video(frames[:count]), 13, 4, 15, video_fps)
        return [int(frame[0, 0, 0]) for frame in found]

    assert taken(40) == list(range(27, 40))
    assert taken(13) == list(range(13))
    assert taken(12) == list(range(3, 12))  # 9 of them fill three latent frames
    assert taken(40, 30.0) == list(range(14, 40, 2))
    assert taken(1) == [0]


def test_given_frames_stay_what_the_vae_makes_of_them(pipeline: WanPipeline):
    given = latents(pipeline, longcat_video=EARLIER[-5:])
    other = latents(pipeline, longcat_video=EARLIER[-5:], seed=2)
    assert mx.array_equal(given[:, :2], other[:, :2])
    assert not mx.allclose(given[:, 2:], other[:, 2:], atol=1e-2)
    image = latents(pipeline, image=EARLIER[-5])
    assert mx.allclose(image[:, :1], given[:, :1], atol=1e-5)


@pytest.mark.parametrize("stream", ["off", "on"])
def test_kept_keys_and_values_change_nothing_without_guidance(pipeline: WanPipeline, stream: str):
    given = {"longcat_video": EARLIER[-5:], "stream": stream}
    kept, computed = latents(pipeline, **given), latents(pipeline, **given, longcat_kv_cache=False)
    assert mx.abs(kept - computed).max() <= 1e-5 * mx.abs(computed).max()


def test_what_guidance_measures_leaves_kept_frames_out(pipeline: WanPipeline):
    given = {"longcat_video": EARLIER[-5:], "guide_scale": 4.0}
    kept, computed = latents(pipeline, **given), latents(pipeline, **given, longcat_kv_cache=False)
    assert mx.abs(kept - computed).max() > 1e-4


def test_a_picture_is_stretched_to_the_video(pipeline: WanPipeline):
    picture = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    fitted = resize_lanczos(picture, 32, 48)
    rounded = np.clip(np.rint(fitted), 0, 255).astype(np.uint8)
    # Pillow rounds to whole numbers after each of two passes.
    assert np.abs(to_unit_range(fitted) - to_unit_range(rounded)).max() <= 1 / 127
    found, same = latents(pipeline, image=picture), latents(pipeline, image=rounded)
    assert mx.allclose(found, same, atol=0.05)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 832, (832, 480)), (1000, 1000, (640, 608)), (100, 1000, (1216, 320)), (1080, 1920, (832, 480))],
)
def test_the_size_is_the_nearest_of_those_that_it_was_trained_at(height, width, expected):
    assert choose_bucket(height, width, LARGEST_480P) == expected


def test_a_clip_goes_on_with_the_last_frames_and_does_not_repeat_them(pipeline: WanPipeline):
    joined = pipeline("a cat", continue_from=Video(EARLIER, 15), **SHORT)
    own = pipeline("a cat", longcat_video=EARLIER[-TAIL:], **SIZE, **SHORT)
    assert mx.array_equal(joined.latents, own.latents)
    assert np.array_equal(joined.frames[: len(EARLIER)], EARLIER)
    assert np.array_equal(joined.frames[len(EARLIER) :], own.frames[TAIL:])  # in their own colours
    single = pipeline("a cat", continue_from=Video(EARLIER, 15), continue_frames=1, **SHORT)
    assert len(single.frames) == len(EARLIER) + 8


@pytest.mark.slow
def test_segments_follow_each_other_and_are_resumed(pipeline: WanPipeline, tmp_path: Path):
    options = {**SIZE, **SHORT, "segments": 3}
    whole = pipeline("a cat", **options)
    assert len(whole.frames) == 9 + 2 * (9 - TAIL)
    first = pipeline("a cat", **SIZE, **SHORT)
    assert np.array_equal(whole.frames[:9], first.frames)
    second = latents(pipeline, longcat_video=first.frames[-TAIL:])
    assert second.shape == whole.latents.shape
    count = [0]

    def interrupt(event: object) -> None:
        count[0] += type(event).__name__ == "StepFinished"
        if count[0] == 5:  # in the second segment, which takes more steps than the first
            raise KeyboardInterrupt

    path = tmp_path / "a.webp"
    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", **options, output_path=path, on_event=interrupt)
    resumed = pipeline("a cat", **options, output_path=path, resume=True)
    assert np.array_equal(resumed.frames, whole.frames)
    assert mx.array_equal(resumed.latents, whole.latents)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_makes_nearly_the_same_step(pipeline: WanPipeline, root: Path, bits: int):
    folder = convert_checkpoint(root / "original", root / f"q{bits}", quantize=True, bits=bits)
    small = WanPipeline.from_pretrained(folder)
    whole, found = latents(pipeline, steps=1), latents(small, steps=1)
    error = mx.abs(found - whole).max() / mx.abs(whole).max()
    assert 0 < error < {8: 0.05, 4: 0.5}[bits]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"longcat_video": EARLIER, "image": EARLIER[0]}, "image: beside --longcat-video"),
        ({"longcat_video": EARLIER, "num_frames": 13}, "num_frames: 13: the last 13 frames of --longcat-vi"),
        ({"continue_from": Video(EARLIER, 15), "longcat_video": EARLIER}, "longcat_video: beside --continue"),
        ({"continue_from": Video(EARLIER, 15), "continue_frames": 6}, "continue_frames: 6: must be 4n.1"),
    ],
)
def test_what_it_cannot_begin_with_is_refused(pipeline: WanPipeline, options: dict, text: str):
    with pytest.raises(RequestError, match=text):
        pipeline("a cat", **SHORT | options)
