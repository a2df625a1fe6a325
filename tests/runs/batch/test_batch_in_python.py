"""`WanPipeline.batch`: results as they are done, errors in their place, wrong calls at once."""

from __future__ import annotations

import inspect

import mlx.core as mx
import pytest

from mlx_video import BatchResult, RequestError, WanPipeline, convert_checkpoint
from mlx_video.events import VideoFailed, VideoStarted
from mlx_video.request import GenerateRequest, options_of
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.slow

SMALL = {"width": 16, "height": 16, "num_frames": 1, "steps": 1}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> WanPipeline:
    root = tmp_path_factory.mktemp("model")
    folder = convert_checkpoint(
        write_tiny_checkpoint(root / "original").path, root / "model", dtype="float32"
    )
    return WanPipeline.from_pretrained(folder)


def test_texts_and_dictionaries_make_videos_with_shared_options(pipe: WanPipeline):
    prompts = ["a cat", {"prompt": "a dog", "seed": 3, "width": 32, "guide_scale": [3.0]}]
    prompts[1].pop("guide_scale")
    results = list(pipe.batch(prompts, seed=7, **SMALL))
    assert [type(result) for result in results] == [BatchResult] * 2
    assert [result.index for result in results] == [0, 1]
    first, second = (result.video for result in results)
    assert (first.settings["seed"], second.settings["seed"]) == ("7", "3")
    assert second.frames.shape == (1, 16, 32, 3)
    assert mx.array_equal(first.latents, pipe("a cat", seed=7, **SMALL).latents)


def test_the_signature_shows_every_option_of_a_video():
    shown = inspect.signature(WanPipeline.batch).parameters
    assert set(options_of(GenerateRequest)) - set(shown) == {"prompt"}
    assert "num_frames:" in WanPipeline.batch.__doc__


def test_several_seeds_of_each_prompt(pipe: WanPipeline):
    seeds = [result.request.seed for result in pipe.batch(["a", "b"], seeds=[1, 2], **SMALL)]
    assert seeds == [1, 2, 1, 2]
    assert [result.request.seed for result in pipe.batch(["a"], count=2, seed=8, **SMALL)] == [8, 9]


def test_a_video_that_fails_has_its_error_and_the_next_is_made(pipe: WanPipeline):
    events: list = []
    prompts = ["a cat", {"prompt": "a dog", "image": "none.png"}]
    results = {one.index: one for one in pipe.batch(prompts, on_event=events.append, **SMALL)}
    assert results[0].video is not None
    assert results[1].video is None
    assert isinstance(results[1].error, RequestError)
    assert [event.index for event in events if isinstance(event, VideoFailed)] == [1]
    assert [event.index for event in events if isinstance(event, VideoStarted)] == [0]


def test_results_come_as_they_are_done_and_leaving_early_stops(pipe: WanPipeline):
    events: list = []
    for result in pipe.batch(["a cat", "a dog"], on_event=events.append, **SMALL):
        assert result.index == 0
        break
    del result
    assert [event.index for event in events if isinstance(event, VideoStarted)] == [0]


@pytest.mark.parametrize(
    ("prompts", "options", "text"),
    [
        (["a"], {"widht": 3}, "widht: unknown option"),
        (
            ["a", {"prompt": "b", "steps": 0}],
            {},
            "steps: 0: must be between 1 and 1000. In video 2 of the list.",
        ),
        ([{"steps": 3}], {}, "prompt: missing"),
        (["a", "a"], {"output_path": "{prompt}.png"}, "videos 1 and 2 of the list both have this name"),
        (["a"], {"seeds": [1], "seed": 3}, "seed: 3: beside --seeds"),
        ("a cat", {}, "prompts: 'a cat': must be a list"),
        (["a"], {"count": 0}, "count: 0: must be at least 1"),
    ],
)
def test_a_wrong_call_is_refused_at_once(pipe: WanPipeline, prompts: list, options: dict, text: str):
    with pytest.raises(RequestError, match=text):
        pipe.batch(prompts, **options)


def test_a_closed_pipeline_makes_no_list(pipe: WanPipeline):
    closed = WanPipeline(pipe.folder, pipe.config)
    closed.close()
    with pytest.raises(ValueError, match="the pipeline is closed"):
        closed.batch(["a"])
