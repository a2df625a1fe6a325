"""Progress in a notebook: one area for each call, which changes in place and is saved with the notebook."""

from __future__ import annotations

import sys
import time
from base64 import b64encode
from html import escape
from typing import Any

from mlx_video.events import Event, FileWritten, PreviewMade, StageFinished, StageStarted
from mlx_video.progress.display import Display, Ending, new_messages
from mlx_video.progress.time_left import Clock
from mlx_video.progress.wording import (
    Count,
    count_of,
    describe_count,
    describe_timing,
    messages_of,
    summary_of,
)

SECONDS_BETWEEN_VIEWS = 0.2
_PICTURE = '<br><img src="data:image/png;base64,{data}" alt="preview">'
_BAR = '<progress value="{done}" max="{total}" style="width: 20em"></progress> {text}<br>'


class View:
    """What an area shows, as HTML and as text for places that show none.

    Attributes:
        lines: what was told.
        count: how far it is; None where nothing is counted.
        times: beside the count.
        picture: a PNG below all; empty for none.
    """

    def __init__(self, lines: list[str], count: Count | None, times: str, picture: bytes = b"") -> None:
        self.lines = lines
        self.count = count
        self.times = times
        self.picture = picture

    def _repr_html_(self) -> str:
        told = "<br>".join(map(escape, self.lines))
        if self.picture:
            told += _PICTURE.format(data=b64encode(self.picture).decode("ascii"))
        if self.count is None:
            return f"<div>{told}</div>"
        text = escape(f"{describe_count(self.count)}: {self.times}")
        return f"<div>{_BAR.format(done=self.count.done, total=self.count.total, text=text)}{told}</div>"

    def __repr__(self) -> str:
        counted = [f"{describe_count(self.count)}: {self.times}"] if self.count else []
        return "\n".join((*counted, *self.lines))


class NotebookArea(Display):
    """An area below the cell; it appears with the first thing to show."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._told: set[str] = set()
        self._lines: list[str] = []
        self._count: Count | None = None
        self._picture = b""
        self._handle: Any = None
        self._drawn = -SECONDS_BETWEEN_VIEWS

    def tell(self, event: Event) -> None:
        """Show one event; counts that come fast are shown now and then."""
        texts = new_messages(event, self._told)
        if isinstance(event, FileWritten):
            texts.append(f"written: {event.path}")
        count = count_of(event)
        match event:
            case StageStarted():
                self._count = None
            case PreviewMade(frames=frames):
                # NumPy, which --help does without.
                from mlx_video.media.preview_file import encode_png, make_strip

                self._picture = encode_png(make_strip(frames))
            case StageFinished():
                self._lines = [
                    line for line in self._lines if line not in messages_of(StageStarted(event.stage))
                ]
        self._count = count or self._count
        self._lines += texts
        is_due = self.tally.clock() - self._drawn >= SECONDS_BETWEEN_VIEWS
        if texts or (count and (is_due or count.done == count.total)):
            self._draw()

    def tell_ending(self, ending: Ending) -> None:
        """Show how it ended, and how to go on, below what was told."""
        if self._handle is None:
            return
        if ending.status == "success":
            self._count, self._picture = None, b""  # the video itself takes its place
            self._lines += summary_of(self.tally)
        else:
            hint = ending.resume_hint.python if ending.resume_hint else ""
            self._lines += filter(None, (ending.message, hint))
        self._draw()

    def _draw(self) -> None:
        count = self._count
        times = describe_timing(self.tally.timing(), count.unit) if count else ""
        view = View([*self._lines], count, times, self._picture)
        if self._handle is None:
            from IPython.display import display

            self._handle = display(view, display_id=True)
        else:
            self._handle.update(view)
        self._drawn = self.tally.clock()


def is_in_notebook() -> bool:
    """Whether a notebook's kernel runs this; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None
