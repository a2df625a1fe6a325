"""Progress as bars on a terminal."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import TYPE_CHECKING, TextIO

from mlx_video.events import Event, PreviewMade, StageFinished, StageStarted, TrainingStepFinished
from mlx_video.progress.display import TextDisplay
from mlx_video.progress.terminal_pictures import find_protocol, picture_text
from mlx_video.progress.wording import Count, describe_count, describe_loss, describe_timing, is_told

if TYPE_CHECKING:
    from tqdm import tqdm


class Bars(TextDisplay):
    """A bar for what goes on, below the lines of what was told."""

    _bar: tqdm | None = None
    _label = ""

    def tell(self, event: Event) -> None:
        """Show one event; a bar goes away with its stage."""
        if isinstance(event, StageStarted | StageFinished):
            self.close()
        super().tell(event)
        if isinstance(event, PreviewMade) and event.path is None:
            self._show_picture(event)

    def _show_picture(self, preview: PreviewMade) -> None:
        """Print the frames side by side, where the terminal shows pictures."""
        if protocol := find_protocol(os.environ):
            from mlx_video.media.preview_file import make_strip  # NumPy, which --help does without

            self.write_line(picture_text(make_strip(preview.frames), protocol))

    def write_line(self, text: str) -> None:
        """Print a line without tearing a bar apart."""
        if self._bar is None:
            super().write_line(text)
        else:
            self._bar.write(text, file=self.stream)

    def show_count(self, count: Count, event: Event) -> None:
        """Move the bar of a count, opening it first if need be."""
        if isinstance(event, TrainingStepFinished) and is_told(event):
            self.write_line(f"{describe_count(count)}: {describe_loss(event)}")
        if self._bar is None or self._label != count.label:
            self.close()
            self._bar, self._label = open_bar(count, self.stream), count.label
        times = describe_timing(self.tally.timing(), count.unit)
        self._bar.bar_format = f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {{n_fmt}}/{{total_fmt}} [{times}]"
        self._bar.n = count.done
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar off the screen, if there is one."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with suppress(OSError):
                bar.close()


def open_bar(count: Count, stream: TextIO) -> tqdm:
    """A bar at its beginning."""
    return bar_class()(
        total=count.total,
        desc=count.label,
        unit=count.unit,
        unit_scale=count.unit == "B",
        file=stream,
        leave=False,
        dynamic_ncols=True,
    )


class _NoLock(AbstractContextManager[None]):
    """Stands for the lock of bars that only one thread draws."""

    def acquire(self, *_: object, **__: object) -> bool:
        """Take it, at once."""
        return True

    def release(self) -> None:
        """Let it go."""

    def __exit__(self, *_: object) -> None:
        """Let it go."""


@cache
def bar_class() -> type[tqdm]:
    """tqdm with no lock and no thread of its own.

    The lock that all bars of a process share stays taken for ever when a stream breaks under a bar, and
    downloads, which have bars of their own in other threads, would wait for it.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0

    Bar.set_lock(_NoLock())
    return Bar
