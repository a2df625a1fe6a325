"""What happened so far in a command or call: how far it is, its times, its memory, and how to go on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_video.events import (
    BytesChecked,
    BytesDownloaded,
    Event,
    FileWritten,
    MemoryPlanned,
    ResumeHint,
    StageFinished,
    StageStarted,
    StateSaved,
    VideoStarted,
)
from mlx_video.progress.time_left import Clock, Estimate, TimeLeft
from mlx_video.progress.wording import Count, count_of

DOWNLOAD_HINT = ResumeHint(
    "What is downloaded so far stays; the same command goes on from there.",
    "What is downloaded so far stays; the same call goes on from there.",
)


@dataclass(frozen=True, slots=True)
class Timing:
    """The time at one moment.

    Attributes:
        elapsed: seconds since the beginning.
        left: of the whole run, or of what is being counted where no run is planned; None where unknown.
        seconds_each: time of one of what is being counted; None before there is one.
    """

    elapsed: float
    left: Estimate | None
    seconds_each: float | None


class Tally:
    """Follows the events of one command or call.

    Args:
        clock: tells the time.
        time_left: estimates the time of a run; None for one that goes by this machine's earlier runs.
    """

    def __init__(self, clock: Clock = time.monotonic, time_left: TimeLeft | None = None) -> None:
        self.clock = clock
        self.predicted: Mapping[str, int] = {}
        self.stages: dict[str, StageFinished] = {}
        self.written: list[Path] = []
        self.count: Count | None = None
        self.peak_bytes = 0
        self._time_left = time_left or TimeLeft(clock)
        self._began = self._counted_at = clock()
        self._counted_from = 0, self._began
        self._seconds_each: float | None = None
        self._state: StateSaved | None = None
        self._download: Count | None = None

    def observe(self, event: Event) -> None:
        """Take note of what happened."""
        self._time_left.observe(event)
        self._observe_count(count_of(event))
        match event:
            case MemoryPlanned(predicted):
                self.predicted = predicted
            case StageStarted():
                self.count, self._counted_at = None, self.clock()
            case StageFinished(stage):
                self.stages[stage] = event
                self.peak_bytes = max(self.peak_bytes, event.peak_bytes)
            case FileWritten(path):
                self.written.append(path)
            case VideoStarted():
                self._state = None
            case StateSaved():
                self._state = event
            case BytesDownloaded() | BytesChecked():
                self._download = count_of(event)

    def _observe_count(self, count: Count | None) -> None:
        if count is None:
            return
        now, before = self.clock(), self.count
        if count.unit == "step":
            self._counted_from = count.done - 1, self._counted_at  # the newest says most
        elif before is None or (count.label, count.total) != (before.label, before.total):
            # Bytes that are there at once were not counted here: an interrupted download goes on.
            self._counted_from = (count.done, now) if count.unit == "B" else (0, self._counted_at)
        self.count, self._counted_at = count, now
        first, began = self._counted_from
        self._seconds_each = (now - began) / (count.done - first) if count.done > first else None

    def timing(self) -> Timing:
        """The time at this moment."""
        each, left = self._seconds_each, self._time_left.estimate()
        if not self._time_left.follows_a_run and self.count and each is not None:
            left = Estimate((self.count.total - self.count.done) * each)
        return Timing(self.elapsed, left, each)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self._began

    @property
    def resume_hint(self) -> ResumeHint | None:
        """How to go on where this ends now; None where nothing is kept."""
        if self._state and self._state.path.exists():
            return self._state.resume_hint
        is_loading = self._download is not None and self._download.done < self._download.total
        return DOWNLOAD_HINT if is_loading else None

    @property
    def takes_steps(self) -> bool:
        """Whether steps are being taken, of which one at least is done."""
        return self.count is not None and self.count.unit == "step"
