"""Bars and lines: what is told of a run, and when."""

from __future__ import annotations

import io
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.events import (
    BlocksRead,
    BytesDownloaded,
    BytesWritten,
    FileWritten,
    FramesDecoded,
    FramesEncoded,
    MemoryPlanned,
    Notice,
    ResumeHint,
    StageFinished,
    StageStarted,
    StateSaved,
    StepFinished,
)
from mlx_video.progress.bars import Bars
from mlx_video.progress.display import Display
from mlx_video.progress.lines import Lines
from tests.progress.clock import FakeClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(index: int, total: int = 10, peak_bytes: int = 0) -> StepFinished:
    return StepFinished(index, total, 500.0, 0.1, mx.zeros(1), peak_bytes)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lines(clock: FakeClock) -> Lines:
    return Lines(io.StringIO(), clock=clock)


def shown(display: Display) -> list[str]:
    assert isinstance(display.stream, io.StringIO)
    return display.stream.getvalue().splitlines()


def test_a_terminal_gets_a_bar_for_steps_frames_and_bytes():
    with Bars(Terminal()) as bars:
        for event in (
            step(4),
            BlocksRead(3, 24),
            FramesEncoded(1, 13),
            StageStarted("decode"),
            FramesDecoded(9, 17),
            BytesWritten("vae", 1_000_000, 2_000_000),
        ):
            bars.show(event)
    text = bars.stream.getvalue()
    for part in ("steps:", "5/10", "blocks:", "3/24", "frames:", "1/13", "9/17", "vae:", "1.00M/2.00M"):
        assert part in text


def test_a_bar_shows_the_time_so_far_the_time_left_and_the_rate(clock: FakeClock):
    bars = Bars(Terminal(), clock=clock)
    bars.show(BytesDownloaded(0, 40_000_000))
    clock.wait(10)
    bars.show(BytesDownloaded(10_000_000, 40_000_000))
    assert "[0:10, about 0:30 left, 1.0 MB/s]" in bars.stream.getvalue()


def test_a_step_gets_a_line_with_time_and_memory(lines: Lines, clock: FakeClock):
    lines.show(StageStarted("denoise"))
    clock.wait(12)
    lines.show(step(0, peak_bytes=9_310_000_000))
    clock.wait(3700)
    lines.show(step(1, peak_bytes=9_310_000_000))
    told = shown(lines)
    assert told[0] == "denoise ..."
    assert told[1] == "step 1 of 10: 0:12, about 1:48 left, 12.0 s/step, peak memory 9.31 GB"
    assert told[2].startswith("step 2 of 10: 1:01:52, about ")
    assert told[2].endswith(", 3700.0 s/step, peak memory 9.31 GB")


def test_what_is_faster_than_steps_gets_one_line_a_minute(lines: Lines, clock: FakeClock):
    lines.show(StageStarted("decode"))
    for done in range(1, 14):
        clock.wait(10)
        lines.show(FramesDecoded(done, 20))
    assert shown(lines)[1:] == [
        "frames 6 of 20: 1:00, about 2:20 left, 10.0 s/frame",
        "frames 12 of 20: 2:00, about 1:20 left, 10.0 s/frame",
    ]


def test_a_download_that_goes_on_counts_its_own_bytes_alone(lines: Lines, clock: FakeClock):
    lines.show(BytesDownloaded(6_000_000_000, 10_000_000_000))
    clock.wait(100)
    lines.show(BytesDownloaded(8_000_000_000, 10_000_000_000))
    assert shown(lines) == ["download 8.00 of 10.00 GB: 1:40, about 1:40 left, 20.0 MB/s"]


@pytest.mark.parametrize("make", [Lines, Bars])
def test_a_notice_is_told_once(make: type[Lines | Bars]):
    display = make(Terminal())
    for _ in range(2):
        display.show(Notice("Size adjusted to 832x480."))
        display.show(StageStarted("text"))
    assert shown(display) == ["Size adjusted to 832x480.", "text ...", "text ..."]


@pytest.mark.parametrize("make", [Lines, Bars])
def test_the_end_tells_time_memory_and_what_was_planned(make: type[Lines | Bars], clock: FakeClock):
    display = make(Terminal(), clock=clock)
    display.show(MemoryPlanned({"text": 1_000_000_000, "denoise": 9_500_000_000}))
    clock.wait(200)
    display.show(StageFinished("text", 5.0, 900_000_000))
    display.show(StageFinished("denoise", 195.0, 9_300_000_000))
    display.end(display.ending("success", 0))
    assert shown(display)[-2:] == [
        "done in 3:20, peak memory 9.30 GB",
        "peak memory in GB, and as planned: text 0.90 (1.00), denoise 9.30 (9.50)",
    ]


def test_what_went_wrong_is_left_to_whoever_caught_it(lines: Lines):
    lines.show(StageStarted("text"))
    lines.end(lines.ending("error", 1, "broken"))
    assert shown(lines) == ["text ..."]


def test_nothing_is_shown_by_a_display_that_keeps_count():
    display = Display(io.StringIO())
    for event in (Notice("a"), step(0), StageFinished("denoise", 1.0, 7)):
        display.show(event)
    display.end(display.ending("success", 0))
    assert shown(display) == []
    assert display.tally.peak_bytes == 7


# How to go on


def test_a_state_that_is_gone_is_no_way_to_go_on(tmp_path: Path):
    state, display = tmp_path / "state", Display()
    state.write_text("")
    display.show(StateSaved(state, 1, 2, ResumeHint("--resume", "resume=True")))
    assert display.tally.resume_hint == ResumeHint("--resume", "resume=True")
    state.unlink()
    assert display.tally.resume_hint is None


def test_a_download_goes_on_until_it_is_whole():
    display = Display()
    display.show(BytesDownloaded(1, 2))
    hint = display.tally.resume_hint
    assert hint is not None
    assert "the same command goes on" in hint.command
    assert "the same call goes on" in hint.python
    display.show(BytesDownloaded(2, 2))
    assert display.tally.resume_hint is None


def test_it_is_known_whether_steps_are_being_taken(tmp_path: Path):
    display = Display()
    assert not display.tally.takes_steps
    display.show(step(0))
    assert display.tally.takes_steps
    display.show(StageStarted("decode"))
    assert not display.tally.takes_steps
    display.show(FileWritten(tmp_path))
    assert display.tally.written == [tmp_path]


def test_a_second_video_is_counted_anew(lines: Lines, clock: FakeClock):
    for seconds in (10, 30):
        lines.show(StageStarted("decode"))
        for done in (1, 2, 3):
            clock.wait(seconds)
            lines.show(FramesDecoded(done, 3))
    assert shown(lines)[-1] == "frames 2 of 3: 1:30, about 0:30 left, 30.0 s/frame"
