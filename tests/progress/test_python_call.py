"""A call in Python shows its progress by itself, and says how to go on when it is interrupted."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.events import Event, Notice, StepFinished
from mlx_video.generate_wan import generate_video
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

SMALL = {"width": 16, "height": 16, "num_frames": 5, "steps": 4, "guide_scale": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "original").path


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> WanPipeline:
    folder = convert_checkpoint(checkpoint, checkpoint.parent / "tiny", dtype="float32", progress=False)
    return WanPipeline.from_pretrained(folder)


def test_a_call_shows_lines_where_there_is_no_terminal(pipeline: WanPipeline, capsys):
    pipeline("a cat", **SMALL)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 4 of 4: " in captured.err
    assert "done in " in captured.err


def test_progress_is_switched_off_for_every_call(
    pipeline: WanPipeline, checkpoint: Path, tmp_path: Path, capsys
):
    latents = tmp_path / "latents.safetensors"
    pipeline("a cat", progress=False, save_latents=latents, **SMALL)
    pipeline.decode(latents, progress=False)
    convert_checkpoint(checkpoint, tmp_path / "silent", progress=False)
    WanPipeline.from_pretrained(tmp_path / "silent", progress=False)
    assert capsys.readouterr() == ("", "")
    pipeline.decode(latents)
    assert "decode ..." in capsys.readouterr().err
    convert_checkpoint(checkpoint, tmp_path / "told")
    assert "transformer ..." in capsys.readouterr().err


def test_whoever_takes_the_events_shows_them(pipeline: WanPipeline, capsys):
    events: list[Event] = []
    pipeline("a cat", on_event=events.append, **SMALL)
    assert capsys.readouterr() == ("", "")
    assert [event.index for event in events if isinstance(event, StepFinished)] == [0, 1, 2, 3]
    events.clear()
    pipeline("a cat", on_event=events.append, progress=True, **SMALL)
    assert "step 4 of 4: " in capsys.readouterr().err
    assert len(events) > 4


def test_notices_are_told_once(pipeline: WanPipeline, capsys):
    events: list[Event] = []
    pipeline("a cat", on_event=events.append, progress=True, **(SMALL | {"width": 20}))
    shown = capsys.readouterr().err
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert any("20x16" in text for text in texts)
    assert [shown.count(text) for text in texts] == [1] * len(texts)


def test_the_function_of_other_programs_shows_progress_too(pipeline: WanPipeline, tmp_path: Path, capsys):
    output = tmp_path / "a.webp"
    assert generate_video(pipeline.folder.path, "a cat", output_path=output, **SMALL) == output
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 4 of 4: " in captured.err


def interrupt_after(index: int):
    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.index == index:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_call_leaves_a_state_and_says_how_to_go_on(pipeline: WanPipeline, tmp_path: Path):
    whole = pipeline("a cat", **SMALL)
    output = tmp_path / "a.webp"
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline("a cat", output_path=output, on_event=interrupt_after(1), **SMALL)
    state = tmp_path / "a.webp.state.safetensors"
    note = f"2 of 4 steps are kept in {state}: the same call with resume=True goes on from there."
    assert caught.value.__notes__ == [note]
    video = pipeline("a cat", output_path=output, resume=True, **SMALL)
    assert mx.array_equal(video.latents, whole.latents)


def test_an_interrupted_call_without_a_file_says_what_would_have_kept_it(pipeline: WanPipeline):
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline("a cat", on_event=interrupt_after(1), **SMALL)
    (note,) = caught.value.__notes__
    assert note.startswith("No step of this run was kept: a state is written beside output_path")


def test_an_interrupted_decoding_names_the_call_that_finishes_the_job(pipeline: WanPipeline, tmp_path: Path):
    def stop(event: Event) -> None:
        if type(event).__name__ == "FramesDecoded":
            raise KeyboardInterrupt

    whole = pipeline("a cat", trim_first_frames=1, **SMALL)
    output = tmp_path / "a cat's.webp"
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline("a cat", output_path=output, trim_first_frames=1, on_event=stop, **SMALL)
    (note,) = caught.value.__notes__
    call = note.partition("Make the video from them with: ")[2]
    assert call.startswith("pipe.decode(")
    video = eval(call, {"pipe": pipeline})
    assert (video.frames == whole.frames).all()
    assert output.exists()
