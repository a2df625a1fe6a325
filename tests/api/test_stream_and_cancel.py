"""Events as a generator, and calls that are ended from outside: nothing is lost."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import (
    Cancelled,
    MLXVideoError,
    RequestError,
    Video,
    VideoMade,
    WanPipeline,
    convert_checkpoint,
)
from mlx_video.events import FileWritten, StateSaved, StepFinished
from mlx_video.latents.run_state import load_state
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": 4, "guide_scale": 1.0, "seed": 1}
SMALL |= {"prompt_cache": False}


def assert_same(video: Video, expected: Video) -> None:
    assert mx.array_equal(video.latents, expected.latents)
    assert np.array_equal(video.frames, expected.frames)


# A stream


def test_a_stream_yields_every_event_of_a_call_and_then_the_video(pipe: WanPipeline, capsys):
    told: list = []
    expected = pipe("a cat", on_event=told.append, **SMALL)
    *events, last = pipe.stream("a cat", **SMALL)
    assert [type(event) for event in events] == [type(event) for event in told]
    assert isinstance(last, VideoMade)
    assert_same(last.video, expected)
    assert last.video.settings == expected.settings
    assert capsys.readouterr() == ("", "")


def test_a_stream_computes_only_what_is_awaited(pipe: WanPipeline, tmp_path: Path):
    state = tmp_path / "a.webp.state.safetensors"
    stream = pipe.stream("a cat", output_path=tmp_path / "a.webp", **SMALL)
    assert inspect.isgenerator(stream)
    assert inspect.getgeneratorstate(stream) == inspect.GEN_CREATED
    done = []
    for event in stream:
        if isinstance(event, StateSaved):
            done.append((event.done, load_state(state).next_step))
    assert done == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_a_stream_that_is_closed_leaves_a_state(pipe: WanPipeline, tmp_path: Path):
    output = tmp_path / "a.webp"
    stream = pipe.stream("a cat", output_path=output, **SMALL)
    for event in stream:
        if isinstance(event, StepFinished) and event.index == 1:
            break
    stream.close()
    assert not output.exists()
    assert (tmp_path / "a.webp.state.safetensors").exists()
    rest = list(pipe.stream("a cat", output_path=output, resume=True, **SMALL))
    assert [event.index for event in rest if isinstance(event, StepFinished)] == [2, 3]
    assert_same(rest[-1].video, pipe("a cat", **SMALL))


def test_a_stream_refuses_wrong_options_before_the_first_event(pipe: WanPipeline):
    with pytest.raises(RequestError, match="steps"):
        pipe.stream("a cat", steps=-1)
    pipe.close()
    with pytest.raises(ValueError, match="closed"):
        pipe.stream("a cat")


def test_two_streams_may_go_on_in_turns(pipe: WanPipeline):
    made = []
    for one, two in zip(pipe.stream("a cat", **SMALL), pipe.stream("two dogs", **SMALL), strict=True):
        made = [one, two]
    for last, prompt in zip(made, ("a cat", "two dogs"), strict=True):
        assert_same(last.video, pipe(prompt, progress=False, **SMALL))


# A cancel


class FromAnotherThread:
    """Sets a token on another thread when a step is done, and lets the call go on when it is set."""

    def __init__(self, index: int) -> None:
        self.token = threading.Event()
        self._index = index
        self._reached, self._answered = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._cancel)
        self._thread.start()

    def _cancel(self) -> None:
        self._reached.wait(60)
        self.token.set()
        self._answered.set()

    def watch(self, event: object) -> None:
        """Tell the other thread of the step, and wait for it."""
        if isinstance(event, StepFinished) and event.index == self._index:
            self._reached.set()
            assert self._answered.wait(60)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_call_is_cancelled_from_another_thread_and_goes_on_bit_for_bit(pipe: WanPipeline, tmp_path: Path):
    output, other = tmp_path / "a.webp", FromAnotherThread(1)
    with pytest.raises(Cancelled) as caught:
        pipe("a cat", output_path=output, on_event=other.watch, cancel=other.token, **SMALL)
    other.join()
    state = tmp_path / "a.webp.state.safetensors"
    assert str(caught.value) == (
        f"The call was cancelled. 2 of 4 steps are kept in {state}: the same call with resume=True goes on "
        "from there."
    )
    assert isinstance(caught.value, MLXVideoError)
    assert not hasattr(caught.value, "__notes__")
    assert not output.exists()
    events: list = []
    video = pipe("a cat", output_path=output, resume=True, on_event=events.append, **SMALL)
    assert [event.index for event in events if isinstance(event, StepFinished)] == [2, 3]
    assert_same(video, pipe("a cat", progress=False, **SMALL))


def test_a_cancelled_call_without_a_file_says_what_would_have_kept_it(pipe: WanPipeline):
    other = FromAnotherThread(1)
    with pytest.raises(
        Cancelled, match="No step of this run was kept: a state is written beside output_path"
    ):
        pipe("a cat", on_event=other.watch, cancel=other.token, **SMALL)
    other.join()
    assert_same(pipe("a cat", progress=False, **SMALL), pipe("a cat", progress=False, **SMALL))


def already() -> threading.Event:
    token = threading.Event()
    token.set()
    return token


def test_a_token_that_is_set_before_ends_every_kind_of_call(pipe: WanPipeline, tmp_path: Path):
    latents = tmp_path / "a.safetensors"
    pipe("a cat", progress=False, save_latents=latents, **SMALL)
    written = sorted(tmp_path.iterdir())
    for call in (
        lambda: pipe("a cat", cancel=already(), **SMALL),
        lambda: next(pipe.stream("a cat", cancel=already(), **SMALL)),
        lambda: next(pipe.batch(["a cat", "a dog"], cancel=already(), **SMALL)),
        lambda: pipe.encode("a cat", cancel=already()),
        lambda: pipe.decode(latents, cancel=already()),
    ):
        with pytest.raises(Cancelled, match="The call was cancelled"):
            call()
    assert sorted(tmp_path.iterdir()) == written


def test_a_cancelled_conversion_leaves_no_folder(tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "original").path
    with pytest.raises(Cancelled):
        convert_checkpoint(checkpoint, tmp_path / "model", cancel=already())
    assert not (tmp_path / "model").exists()


def test_a_cancelled_list_goes_on_where_it_was(pipe: WanPipeline, tmp_path: Path):
    pattern, other = tmp_path / "{i}.webp", FromAnotherThread(1)
    with pytest.raises(Cancelled, match=r"2 of 4 steps are kept in .*1\.webp\.state"):
        list(
            pipe.batch(
                ["a cat", "two dogs"], output_path=pattern, on_event=other.watch, cancel=other.token, **SMALL
            )
        )
    other.join()
    results = list(
        pipe.batch(["a cat", "two dogs"], output_path=pattern, resume=True, progress=False, **SMALL)
    )
    assert [result.error for result in results] == [None, None]
    for result, prompt in zip(results, ("a cat", "two dogs"), strict=True):
        assert_same(result.video, pipe(prompt, progress=False, **SMALL))


def test_a_video_that_is_finished_is_not_thrown_away(pipe: WanPipeline, tmp_path: Path):
    token, output = threading.Event(), tmp_path / "a.webp"

    def set_at_the_end(event: object) -> None:
        if isinstance(event, FileWritten):
            token.set()

    video = pipe("a cat", output_path=output, on_event=set_at_the_end, cancel=token, **SMALL)
    assert len(video.frames) == 5
    assert output.exists()


def test_what_is_shown_of_a_cancelled_call_is_no_failure(pipe: WanPipeline, monkeypatch):
    endings: list = []
    monkeypatch.setattr("mlx_video.progress.display.Display.end", lambda self, ending: endings.append(ending))
    with pytest.raises(Cancelled):
        pipe("a cat", cancel=already(), **SMALL)
    (ending,) = endings
    assert (ending.status, ending.exit_code) == ("interrupted", 130)
    assert ending.message.startswith("The call was cancelled.")
