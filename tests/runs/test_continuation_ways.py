"""Ways to make a video in several parts: what each field of one does, on a model that has another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import RequestError, Video, WanPipeline, convert_checkpoint
from mlx_video.conditioning.continuation.last_frame import LAST_FRAME
from mlx_video.conditioning.continuation.part import Part
from mlx_video.conditioning.continuation.way import Continuation, Length
from mlx_video.conditioning.units import ConditioningUnit
from mlx_video.config import ModelConfig
from mlx_video.latents.latents_file import load_latents
from mlx_video.media.sources.pick_frames import Picking, pick_frames
from mlx_video.media.sources.source_video import open_video
from mlx_video.runs import generate
from mlx_video.variants.registry import find_variant
from tests.fixtures.interruptions import interrupt_in_part
from tests.fixtures.tiny_variants import write_tiny_variant

SHORT = {"num_frames": 9, "steps": 2, "guide_scale": 1.0, "seed": 1, "width": 64, "height": 32}
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)

Parts = list[tuple[int, int, np.ndarray]]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    write_tiny_variant(root / "original", "wan2.2-i2v-a14b", num_layers=1)
    return WanPipeline.from_pretrained(convert_checkpoint(root / "original", root / "m", dtype="float32"))


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Continuation], Parts]:
    """Gives the model a way to go on; what its units are told of each part is listed."""

    def use(way: Continuation) -> Parts:
        seen: Parts = []

        def find(config: ModelConfig):
            variant = find_variant(config)
            first, *units = variant.units
            return replace(variant, continuation=way, units=(_watch(first, seen), *units))

        monkeypatch.setattr(generate, "find_variant", find)
        return seen

    return use


def _watch(unit: ConditioningUnit, seen: Parts) -> ConditioningUnit:
    def make(inputs, encoders):
        part: Part = inputs.part
        history = np.stack([*part.history()]) if part.history else np.zeros(0)
        seen.append((part.number, part.first_frame, history))
        return (yield from unit.make(inputs, encoders))

    return replace(unit, make=make)


def history_of(count: int, **others) -> Continuation:
    """A way whose parts read some frames, and show none again."""
    keeps = replace(LAST_FRAME, begin=lambda request, earlier, config: request, replaces=())
    return replace(
        keeps,
        count_shared=lambda request, config, title: count,
        is_shown_again=False,
        reads_history=True,
        matches_colours=False,
        **others,
    )


def three_parts(frames: int | None) -> Callable[..., Length]:
    return lambda request, config: Length(3, frames, "the sound lasts a while")


@pytest.mark.slow
def test_parts_that_read_frames_are_joined_whole_and_know_where_they_lie(pipeline, go_on, tmp_path: Path):
    way = history_of(12, is_exact=True, reads_on=True, find_length=three_parts(None), count_lost=lambda r: 2)
    seen = go_on(way)
    path = tmp_path / "a.safetensors"
    video = pipeline("a cat", image=IMAGE, **SHORT, save_latents=path)
    assert len(video.frames) == 7 + 9 + 9
    assert [(number, first) for number, first, _ in seen] == [(0, 0), (1, 9), (2, 18)]
    # Frames of two parts are remembered where one has fewer than the next one reads.
    assert [len(history) for _, _, history in seen] == [0, 7, 12]
    for (_, _, history), end in zip(seen[1:], (7, 16), strict=True):
        shown = video.frames[:end][-len(history) :]
        assert history.dtype == np.float32
        assert np.array_equal(((history + 1) / 2 * 255).astype(np.uint8), shown)
        assert not np.array_equal(history, shown / 127.5 - 1)  # as decoded, not as shown
    joined, _ = load_latents(path)
    assert joined.shape[1] == 3 * 3
    assert mx.array_equal(joined[:, -3:], video.latents)


@pytest.mark.slow
def test_frames_of_a_given_video_are_read_as_it_has_them(pipeline, go_on):
    seen = go_on(history_of(5, is_exact=True))
    earlier = np.random.default_rng(1).integers(0, 256, (8, 32, 64, 3), np.uint8)
    video = pipeline("a cat", image=IMAGE, continue_from=Video(earlier, 16), **SHORT)
    ((number, first, history),) = seen
    assert (number, first, len(video.frames)) == (0, 0, 8 + 9)
    assert np.allclose(history, earlier[-5:] / 127.5 - 1, atol=1e-6)


@pytest.mark.slow
def test_parts_that_show_frames_again_are_cut_where_the_inputs_end(pipeline, go_on, tmp_path: Path):
    way = replace(
        LAST_FRAME,
        count_shared=lambda request, config, title: 5,
        reads_history=True,
        reads_on=True,
        find_length=three_parts(15),
        noise_goes_on=True,
        matches_colours=False,
    )
    seen = go_on(way)
    noise: list[mx.array] = []
    video = pipeline("a cat", image=IMAGE, **SHORT, save_latents=tmp_path / "a", on_event=noise.append)
    assert len(video.frames) == 15  # of 9 + 4 + 4
    assert [(number, first, len(history)) for number, first, history in seen] == [
        (0, 0, 0),
        (1, 4, 5),
        (2, 8, 5),
    ]
    assert load_latents(tmp_path / "a")[0].shape[1] == 3 + 1 + 1
    assert video.settings["seed"] == "1"


@pytest.mark.sample(1)
@pytest.mark.slow
@pytest.mark.parametrize("where", [(1, 1), (2, 0), (2, 1), (3, 0), (3, 1)])
def test_they_are_resumed_bit_for_bit(pipeline, go_on, tmp_path: Path, where: tuple[int, int]):
    go_on(history_of(12, is_exact=True, reads_on=True, find_length=three_parts(20), count_lost=lambda r: 2))
    options = {"image": IMAGE, **SHORT}
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


def test_another_number_of_segments_than_the_inputs_make_is_refused(pipeline, go_on):
    go_on(history_of(12, find_length=three_parts(None)))
    with pytest.raises(RequestError, match="segments: 2: the sound lasts a while, which makes 3 parts"):
        pipeline("a cat", image=IMAGE, **SHORT, segments=2)


def test_frames_are_picked_from_where_a_part_lies():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    video = replace(open_video(frames), fps=32.0)
    picked = [int(frame[0, 0, 0]) for frame in pick_frames(video, Picking("video", 5, 16, first=7))]
    assert picked == [14, 16, 18, 20, 22]
