"""Videos that go on: from a file, an array or a state, in one clip or several, joined without a seam."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, Video, WanPipeline, convert_checkpoint
from mlx_video.events import Notice
from mlx_video.media.colour_match import ColourMatch
from mlx_video.media.video import read_frames
from tests.fixtures.sampling_runs import open_deep_model
from tests.fixtures.tiny_variants import write_tiny_variant

SIZE = {"width": 64, "height": 32}
SHORT = {"num_frames": 5, "steps": 2, "guide_scale": 1.0, "seed": 1}
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
EARLIER = np.random.default_rng(1).integers(60, 196, (3, 32, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    write_tiny_variant(root / "original", "wan2.2-i2v-a14b", num_layers=2)
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


def test_a_clip_gets_mean_and_contrast_of_the_frame_before():
    random = np.random.default_rng(2)
    found = random.normal(120, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
    wanted = random.normal(140, 22, (16, 16, 3)).clip(0, 255).astype(np.uint8)
    matched = ColourMatch.between(found, wanted)(found[None])[0]
    assert np.allclose(matched.mean((0, 1)), wanted.mean((0, 1)), atol=0.5)
    assert np.allclose(matched.std((0, 1)), wanted.std((0, 1)), atol=0.5)
    assert np.array_equal(ColourMatch.between(wanted, wanted)(found[None])[0], found)


def test_a_flat_frame_changes_contrast_by_a_quarter_at_most():
    flat, wanted = np.full((4, 4, 3), 100, np.uint8), IMAGE[:4, :4]
    assert ColourMatch.between(flat, wanted).gain.tolist() == [1.25] * 3
    assert np.allclose(ColourMatch.between(wanted, flat).gain, 0.8)


@pytest.mark.slow
def test_a_clip_goes_on_with_the_last_frame_and_does_not_repeat_it(pipeline: WanPipeline):
    joined = pipeline("a cat", continue_from=Video(EARLIER, 16), **SHORT)
    own = pipeline("a cat", image=EARLIER[-1], **SIZE, **SHORT)
    assert mx.array_equal(joined.latents, own.latents)
    assert joined.frames.shape == (3 + 5 - 1, 32, 64, 3)
    assert np.array_equal(joined.frames[:3], EARLIER)
    match = ColourMatch.between(own.frames[0], EARLIER[-1])
    assert np.array_equal(joined.frames[3:], match(own.frames[1:]))
    assert not np.array_equal(joined.frames[3:], own.frames[1:])


@pytest.mark.slow
def test_a_clip_goes_on_from_files_and_states(pipeline: WanPipeline, tmp_path: Path):
    first = pipeline("a cat", image=IMAGE, **SIZE, **SHORT, output_path=tmp_path / "a.webp", keep_state=True)
    state = next(tmp_path.glob("*.state.safetensors"))
    expected = pipeline("a dog", continue_from=first, **SHORT)
    found = pipeline("a dog", continue_from=state, **SHORT, output_path=tmp_path / "b.webp")
    assert np.array_equal(found.frames, expected.frames)
    assert found.settings["continue_from"] == "video of 5 frames"
    file = pipeline("a dog", continue_from=tmp_path / "b.webp", **SHORT, output_path=tmp_path / "c.webp")
    assert np.array_equal(file.frames[:9], read_frames(tmp_path / "b.webp"))
    assert file.settings["continue_from"] == str(tmp_path / "b.webp")
    assert len(read_frames(tmp_path / "c.webp")) == 13


@pytest.mark.slow
def test_segments_are_clips_one_after_the_other(pipeline: WanPipeline, tmp_path: Path):
    events: list[object] = []
    path = tmp_path / "a.webp"
    long = pipeline(
        "a cat", image=IMAGE, **SIZE, **SHORT, segments=3, output_path=path, on_event=events.append
    )
    first = pipeline("a cat", image=IMAGE, **SIZE, **SHORT)
    second = pipeline("a cat", continue_from=first, **(SHORT | {"seed": 2}))
    third = pipeline("a cat", continue_from=second, **(SHORT | {"seed": 3}))
    assert np.array_equal(long.frames, third.frames)
    assert mx.array_equal(long.latents, third.latents)
    assert long.frames.shape[0] == 5 + 4 + 4 == len(read_frames(path))
    told = [event.text for event in events if isinstance(event, Notice) and "Segment" in event.text]
    assert told == ["Segment 1 of 3.", "Segment 2 of 3.", "Segment 3 of 3."]


@pytest.mark.slow
def test_a_clip_that_goes_on_is_resumed_bit_for_bit(pipeline: WanPipeline, tmp_path: Path):
    options = {**SHORT, "continue_from": Video(EARLIER, 16), "output_path": tmp_path / "a.webp"}
    whole = pipeline("a cat", **options)

    def stop(event: object) -> None:
        if type(event).__name__ == "StepFinished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", on_event=stop, **options)
    resumed = pipeline("a cat", resume=True, **options)
    assert np.array_equal(resumed.frames, whole.frames)
    with pytest.raises(KeyboardInterrupt):
        pipeline("a cat", on_event=stop, **options)
    with pytest.raises(RequestError, match="resume: .* is of another run"):
        pipeline("a cat", resume=True, **options | {"continue_from": Video(EARLIER[::-1], 16)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image": IMAGE}, "image: beside --continue-from"),
        ({"num_frames": 1}, "num_frames: 1: --continue-from adds frames"),
        ({"trim_first_frames": 1}, "trim_first_frames: beside --continue-from"),
    ],
)
def test_what_contradicts_going_on_is_refused(pipeline: WanPipeline, options: dict, text: str):
    with pytest.raises(RequestError, match=text):
        pipeline("a cat", **({"continue_from": Video(EARLIER, 16)} | SHORT | options))


def test_states_of_segments_are_not_gone_on_with(pipeline: WanPipeline, tmp_path: Path):
    with pytest.raises(RequestError, match="resume: the states of segments are not kept"):
        pipeline("a cat", image=IMAGE, segments=2, resume=True, output_path=tmp_path / "a.webp")


@pytest.mark.slow
def test_a_model_that_takes_no_image_does_not_go_on(tmp_path: Path):
    text_only = open_deep_model(tmp_path)
    for options in ({"segments": 2}, {"continue_from": Video(EARLIER, 16)}):
        (name,) = options
        with pytest.raises(RequestError, match=f"{name}: .* takes no image"):
            text_only("a cat", **options)
