"""What every way of showing events has in common, and showing none."""

from __future__ import annotations

import io
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TextIO

from mlx_video.events import Event, Notice, ResumeHint
from mlx_video.progress.tally import Tally
from mlx_video.progress.time_left import Clock
from mlx_video.progress.wording import Count, count_of, messages_of, summary_of

Status = Literal["success", "error", "interrupted"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command or call came to its end.

    Attributes:
        status: "success", "error" or "interrupted".
        exit_code: of the command.
        message: what went wrong, for people; "" for nothing.
        resume_hint: how to go on; None where nothing is kept.
        outputs: files that were written, in order.
        wall_seconds: from beginning to end.
        peak_bytes: most MLX memory of any stage; 0 where no stage ended.
        traceback: of an error, where it is asked for; "" for none.
    """

    status: Status
    exit_code: int
    message: str
    resume_hint: ResumeHint | None
    outputs: tuple[Path, ...]
    wall_seconds: float
    peak_bytes: int
    traceback: str = ""


class Display:
    """Shows nothing, but keeps count. Others show something.

    A stream that cannot be written to (a closed terminal, the end of `| head`) never ends the work.

    Args:
        stream: where to show it; stderr by default.
        clock: tells the time.

    Attributes:
        tally: what happened so far.
        tells_errors: whether `end` says what went wrong; else that is left to whoever caught it.
    """

    tells_errors = False

    def __init__(self, stream: TextIO | None = None, *, clock: Clock = time.monotonic) -> None:
        self.stream: TextIO = stream or sys.stderr or io.StringIO()  # a closed stderr is None
        self.tally = Tally(clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, event: Event) -> None:
        """Show one event."""
        self.tally.observe(event)
        with suppress(OSError):
            self.tell(event)

    def end(self, ending: Ending) -> None:
        """Show how it ended."""
        with suppress(OSError):
            self.tell_ending(ending)

    def ending(
        self, status: Status, exit_code: int, message: str = "", resume_hint: ResumeHint | None = None
    ) -> Ending:
        """An ending of what was shown so far."""
        tally = self.tally
        outputs = tuple(tally.written)
        return Ending(status, exit_code, message, resume_hint, outputs, tally.elapsed, tally.peak_bytes)

    def close(self) -> None:
        """Take away what is there only while work goes on."""

    def tell(self, event: Event) -> None:
        """Show one event that is counted already; the stream may break."""

    def tell_ending(self, ending: Ending) -> None:
        """Show how it ended; the stream may break."""


class TextDisplay(Display):
    """Shows what is worth a line; those who inherit show counts too."""

    def __init__(self, stream: TextIO | None = None, *, clock: Clock = time.monotonic) -> None:
        super().__init__(stream, clock=clock)
        self._told: set[str] = set()

    def tell(self, event: Event) -> None:
        """Show one event; a notice that was there before is not repeated."""
        for text in new_messages(event, self._told):
            self.write_line(text)
        count = count_of(event)
        if count:
            self.show_count(count, event)

    def tell_ending(self, ending: Ending) -> None:
        """Sum up what was done; what went wrong is for others to tell."""
        self.close()
        if ending.status == "success":
            for text in summary_of(self.tally):
                self.write_line(text)

    def write_line(self, text: str) -> None:
        """Print a line."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def show_count(self, count: Count, event: Event) -> None:
        """Show how far something is."""


def new_messages(event: Event, told: set[str]) -> list[str]:
    """Lines that an event is worth, without notices that were told before; these are added to `told`."""
    texts = [text for text in messages_of(event) if text not in told]
    if isinstance(event, Notice):
        told.update(texts)
    return texts
