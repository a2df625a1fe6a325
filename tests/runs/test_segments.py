"""Videos that go on: from a file, an array or a state, in one clip or several, joined without a seam."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import MediaError, RequestError, Video, WanPipeline, convert_checkpoint
from mlx_video.events import FileWritten, Notice, StageStarted, StateSaved, StepFinished, finish
from mlx_video.media.colour_match import ColourMatch
from mlx_video.media.video import read_frames
from mlx_video.request import GenerateRequest
from mlx_video.runs.batch.finished import read_settings
from mlx_video.runs.run import Run
from mlx_video.runs.segments import generate_segments
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


class Interrupted(Exception):
    """Stands for whatever ends a run."""


def interrupted(pipeline: WanPipeline, segment: int, step: int, **options) -> list[str]:
    """Break a run off behind a step of a segment, 0 for its begin; returns what is told of going on."""
    where, hints = [""], []

    def watch(event: object) -> None:
        if isinstance(event, StateSaved):
            hints.append(event.resume_hint.command)
        if isinstance(event, Notice) and event.text.startswith("Segment "):
            where[0] = event.text
        in_it = where[0] == f"Segment {segment} of {options['segments']}."
        begins = isinstance(event, StageStarted) and step == 0
        if in_it and (begins or (isinstance(event, StepFinished) and event.index + 1 == step)):
            raise Interrupted

    with pytest.raises(Interrupted):
        pipeline("a cat", on_event=watch, **options)
    return hints


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FIVE = {**SIZE, **SHORT, "image": IMAGE, "segments": 5}


@pytest.mark.slow
def test_segments_are_resumed_bit_for_bit_wherever_they_are_broken_off(pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "a.webp"
    whole = pipeline("a cat", **FIVE, output_path=tmp_path / "whole" / "a.webp")
    hints = interrupted(pipeline, 3, 1, **FIVE, output_path=path)
    assert hints[-1].startswith("Segment 3 of 5: 1 of 2 steps are kept in")
    assert names_in(tmp_path) == [
        "a.webp",
        "a.webp.segment-1.safetensors",
        "a.webp.segment-2.safetensors",
        "a.webp.state.safetensors",
        "whole",
    ]
    assert len(read_frames(path)) == 9  # both finished segments can be watched
    # Again, before the first step of the fourth and in the last one.
    hints = interrupted(pipeline, 4, 0, **FIVE, output_path=path, resume=True)
    assert hints[-1].startswith("3 of 5 segments are kept beside")
    interrupted(pipeline, 5, 1, **FIVE, output_path=path, resume=True)
    events: list[object] = []
    resumed = pipeline("a cat", **FIVE, output_path=path, resume=True, on_event=events.append)
    assert np.array_equal(resumed.frames, whole.frames)
    assert mx.array_equal(resumed.latents, whole.latents)
    assert sum(isinstance(event, StepFinished) for event in events) == 1
    assert np.array_equal(read_frames(path), read_frames(tmp_path / "whole" / "a.webp"))
    assert names_in(tmp_path) == ["a.webp", "whole"]
    assert [event.path for event in events if isinstance(event, FileWritten)] == [path]


@pytest.mark.nightly
@pytest.mark.slow
def test_segments_of_a_random_seed_and_behind_a_video_are_resumed(pipeline: WanPipeline, tmp_path: Path):
    options = {**SHORT, "seed": -1, "continue_from": Video(EARLIER, 16), "segments": 3}
    interrupted(pipeline, 2, 1, **options, output_path=tmp_path / "a.webp")
    resumed = pipeline("a cat", **options, output_path=tmp_path / "a.webp", resume=True)
    seed = int(resumed.settings["seed"])
    whole = pipeline("a cat", **options | {"seed": seed})
    assert np.array_equal(resumed.frames, whole.frames)
    assert np.array_equal(whole.frames[:3], EARLIER)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_kept_state_lets_a_video_grow(pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "a.webp"
    pipeline("a cat", **FIVE | {"segments": 2}, output_path=path, keep_state=True)
    assert names_in(tmp_path) == ["a.webp", "a.webp.segment-1.safetensors", "a.webp.state.safetensors"]
    events: list[object] = []
    three = FIVE | {"segments": 3}
    grown = pipeline("a cat", **three, output_path=path, resume=True, on_event=events.append)
    assert np.array_equal(grown.frames, pipeline("a cat", **three).frames)
    assert sum(isinstance(event, StepFinished) for event in events) == 2  # those of the third alone


@pytest.mark.slow
def test_a_state_whose_frames_are_kept_already_is_not_in_the_way(pipeline: WanPipeline, tmp_path: Path):
    path, state = tmp_path / "a.webp", tmp_path / "a.webp.state.safetensors"
    pipeline("a cat", **FIVE | {"segments": 1}, output_path=path, keep_state=True)
    of_first = state.read_bytes()
    interrupted(pipeline, 2, 0, **FIVE, output_path=path)
    state.write_bytes(of_first)  # as where a run is killed before it removes it
    resumed = pipeline("a cat", **FIVE | {"segments": 2}, output_path=path, resume=True)
    assert np.array_equal(resumed.frames, pipeline("a cat", **FIVE | {"segments": 2}).frames)


@pytest.mark.slow
def test_segments_of_another_run_are_refused_and_replaced(pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "a.webp"
    interrupted(pipeline, 3, 1, **FIVE, output_path=path)
    for changed in ({"image": IMAGE[::-1]}, {"seed": 5}):
        with pytest.raises(RequestError, match=r"resume: .*segment-1.* is of another run: --(image|seed) is"):
            pipeline("a cat", **FIVE | changed, output_path=path, resume=True)
    # Begun anew, it leaves all as it is until there is something of its own.
    interrupted(pipeline, 1, 0, **FIVE | {"seed": 5}, output_path=path)
    assert "a.webp.segment-2.safetensors" in names_in(tmp_path)
    interrupted(pipeline, 1, 1, **FIVE | {"seed": 5}, output_path=path)
    assert names_in(tmp_path) == ["a.webp", "a.webp.state.safetensors"]


@pytest.mark.slow
def test_files_of_others_with_the_names_of_segments_stay(pipeline: WanPipeline, tmp_path: Path):
    other = tmp_path / "a.webp.segment-1.safetensors"
    mx.save_safetensors(str(other), {"weights": mx.zeros(3)})
    with pytest.raises(RequestError, match="output_path: .*segment-1.* was not made by mlx-video"):
        pipeline("a cat", **FIVE, output_path=tmp_path / "a.webp")
    with pytest.raises(MediaError, match=r"segment-1.*holds no frames"):
        pipeline("a cat", **FIVE, output_path=tmp_path / "a.webp", resume=True)
    assert other.exists()


@pytest.mark.slow
def test_a_cut_off_segment_is_told_of(pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "a.webp"
    interrupted(pipeline, 2, 1, **FIVE, output_path=path)
    kept = tmp_path / "a.webp.segment-1.safetensors"
    kept.write_bytes(kept.read_bytes()[:-10])
    with pytest.raises(MediaError, match=r"segment-1.safetensors: cut short, .*without --resume"):
        pipeline("a cat", **FIVE, output_path=path, resume=True)


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


# Models that take several frames

NINE = {**SHORT, "num_frames": 9, "steps": 1}
BEFORE = np.random.default_rng(3).integers(60, 196, (7, 32, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def vace(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("vace")
    write_tiny_variant(root / "original", "wan2.1-vace-1.3b")
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


@pytest.mark.slow
def test_vace_goes_on_from_several_frames(vace: WanPipeline):
    joined = vace("a cat", continue_from=Video(BEFORE, 16), **NINE)
    given = np.concatenate([BEFORE[-5:], np.full_like(BEFORE[:4], 128)])
    mask = np.concatenate([np.zeros_like(BEFORE[:5]), np.full_like(BEFORE[:4], 255)])
    own = vace("a cat", vace_video=given, vace_video_mask=mask, **SIZE, **NINE)
    assert mx.array_equal(joined.latents, own.latents)
    # Half of a clip of nine is shown again, and stands in the result once.
    assert len(joined.frames) == 7 + 9 - 5
    assert np.array_equal(joined.frames[:7], BEFORE)
    match = ColourMatch.between(own.frames[4], BEFORE[-1])
    assert np.array_equal(joined.frames[7:], match(own.frames[5:]))
    # Frames before the last one count, others do not, and the user says how many.
    for number, counts in ((-5, True), (-6, False)):
        changed = BEFORE.copy()
        changed[number] = 255 - changed[number]
        found = vace("a cat", continue_from=Video(changed, 16), **NINE).latents
        assert mx.array_equal(found, joined.latents).item() != counts
    single = vace("a cat", continue_from=Video(BEFORE, 16), continue_frames=1, **NINE)
    assert len(single.frames) == 7 + 9 - 1
    assert single.settings["continue_frames"] == "1"


@pytest.mark.nightly
@pytest.mark.slow
def test_segments_of_vace_are_resumed(vace: WanPipeline, tmp_path: Path):
    options = {**NINE, **SIZE, "image": IMAGE, "segments": 3}
    whole = vace("a cat", **options)
    assert len(whole.frames) == 9 + 4 + 4
    interrupted(vace, 3, 0, **options, output_path=tmp_path / "a.webp")
    resumed = vace("a cat", **options, output_path=tmp_path / "a.webp", resume=True)
    assert np.array_equal(resumed.frames, whole.frames)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"continue_frames": 4}, r"continue_frames: 4: must be 4n\+1"),
        ({"continue_frames": 9}, "continue_frames: 9: must be .* less than the clip's 9"),
        ({"continue_frames": 9, "num_frames": 13}, "continue_frames: 9: video of 7 frames has 7 frames"),
        ({"vace_video": BEFORE}, "vace_video: beside --continue-from"),
    ],
)
def test_what_vace_cannot_begin_with_is_refused(vace: WanPipeline, options: dict, text: str):
    with pytest.raises(RequestError, match=text):
        vace("a cat", continue_from=Video(BEFORE, 16), **NINE | options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"continue_frames": 5}, "continue_frames: 5: clips of Wan2.2 I2V A14B begin with one frame"),
        ({"image": IMAGE}, "image: beside --continue-from"),
        ({"num_frames": 1}, "num_frames: 1: --continue-from adds frames"),
        ({"trim_first_frames": 1}, "trim_first_frames: beside --continue-from"),
    ],
)
def test_what_contradicts_going_on_is_refused(pipeline: WanPipeline, options: dict, text: str):
    with pytest.raises(RequestError, match=text):
        pipeline("a cat", **({"continue_from": Video(EARLIER, 16)} | SHORT | options))


@pytest.mark.slow
def test_a_model_that_takes_no_image_does_not_go_on(tmp_path: Path):
    text_only = open_deep_model(tmp_path)
    for options in ({"segments": 2}, {"continue_from": Video(EARLIER, 16)}):
        (name,) = options
        with pytest.raises(RequestError, match=f"{name}: .* takes no image"):
            text_only("a cat", **options)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_video_of_segments_tells_of_itself_as_it_was_asked_for(pipeline: WanPipeline, tmp_path: Path):
    paths = {"output_path": tmp_path / "a.webp", "save_latents": tmp_path / "a.latents.safetensors"}
    options = {**SIZE, **SHORT, "image": IMAGE, "segments": 3}
    alone = pipeline("a cat", **options | {"segments": 1})
    long = pipeline("a cat", **options, **paths, keep_state=True)
    (state,) = tmp_path.glob("*.state.safetensors")
    expected = {**alone.settings, "segments": "3"}
    assert long.settings == expected
    assert [read_settings(path) for path in (*paths.values(), state)] == [expected] * 3
    interrupted(pipeline, 3, 1, **options, output_path=tmp_path / "b.webp")
    resumed = pipeline("a cat", **options, output_path=tmp_path / "b.webp", resume=True)
    assert resumed.settings == expected


@pytest.mark.slow
def test_one_profile_tells_of_all_segments(pipeline: WanPipeline, tmp_path: Path):
    path = tmp_path / "trace.json"
    pipeline("a cat", **SIZE, **SHORT, image=IMAGE, segments=2, profile=path)
    entries = json.loads(path.read_text())["traceEvents"]
    assert [one["name"] for one in entries if one.get("cat") == "steps"] == ["step 1", "step 2"] * 2


def test_what_is_gone_on_from_is_decoded_as_the_run_asks_for():
    asked: list[GenerateRequest] = []

    def prepare(request: GenerateRequest) -> Run:
        asked.append(request)
        raise Interrupted

    options = {"decoder": "tiny", "tiling": "temporal", "memory_limit": 3.0}
    options |= {"compile": False, "kernels": False, "device_check": False}
    request = GenerateRequest("a cat", continue_from=Path("a.safetensors"), **options)
    with pytest.raises(Interrupted):
        finish(generate_segments(request, prepare), lambda event: None)
    (decoding,) = asked
    assert decoding.decode_only == Path("a.safetensors")
    assert {name: getattr(decoding, name) for name in options} == options
