"""Progress as plain lines, for files, pipes and logs."""

from __future__ import annotations

import time
from typing import TextIO

from mlx_video.events import Event, StepFinished, TrainingStepFinished
from mlx_video.progress.display import TextDisplay
from mlx_video.progress.time_left import Clock
from mlx_video.progress.wording import (
    Count,
    describe_count,
    describe_loss,
    describe_timing,
    in_gb,
    is_told,
)

SECONDS_BETWEEN_LINES = 60.0


class Lines(TextDisplay):
    """A line for every step, and for what is faster than steps at most one a minute."""

    def __init__(self, stream: TextIO | None = None, *, clock: Clock = time.monotonic) -> None:
        super().__init__(stream, clock=clock)
        self._last_line = clock()

    def show_count(self, count: Count, event: Event) -> None:
        """Show how far something is, with the times, and behind a step the memory it took."""
        if isinstance(event, StepFinished):
            more = f", peak memory {in_gb(event.peak_bytes)} GB"
        elif isinstance(event, TrainingStepFinished):
            if not is_told(event):
                return
            more = f", {describe_loss(event)}"
        elif self.tally.clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            more = ""
        else:
            return
        self.write_line(f"{describe_count(count)}: {describe_timing(self.tally.timing(), count.unit)}{more}")

    def write_line(self, text: str) -> None:
        """Print a line, and note when."""
        super().write_line(text)
        self._last_line = self.tally.clock()
