"""Progress of one call in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from mlx_video.errors import Cancelled
from mlx_video.events import Event, FileUploaded, FileWritten, ResumeHint
from mlx_video.progress.display import Display
from mlx_video.progress.surroundings import choose_display

EventHandler = Callable[[Event], None]


class Cancel(Protocol):
    """What a caller sets in order to end a call, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether the call is to end."""


NO_STATE = ResumeHint(
    command="",
    python="No step of this run was kept: a state is written beside output_path, where one is given, after "
    "every checkpoint_every steps, and the same call with resume=True goes on from it.",
)


@contextmanager
def events_shown(
    on_event: EventHandler | None, progress: bool | None, cancel: Cancel | None = None
) -> Iterator[EventHandler]:
    """Show what happens in a `with` block, whose errors get a note that says how to go on.

    Args:
        on_event: called with every event too; None for nothing.
        progress: whether to show events; None for yes, unless `on_event` takes them.
        cancel: ends the work at its next event once it is set, unless this is that a result is complete.

    Yields:
        What to call with every event; raises `Cancelled`.
    """
    is_shown = on_event is None if progress is None else progress
    with choose_display(is_quiet=not is_shown) as display:

        def handle(event: Event) -> None:
            display.show(event)
            if on_event is not None:
                on_event(event)
            if cancel is not None and cancel.is_set() and not isinstance(event, FileWritten | FileUploaded):
                raise Cancelled(_cancelled_message(display))

        try:
            yield handle
        except BaseException as error:  # Ctrl-C and a kernel's interruption too
            _end_with(display, error)
            raise
        display.end(display.ending("success", 0))


def _end_with(display: Display, error: BaseException) -> None:
    """Tell how a call ended that did not come to its end, and how to go on."""
    if isinstance(error, Cancelled):
        display.end(display.ending("interrupted", 130, str(error)))  # which says how to go on
        return
    if isinstance(error, Exception):
        hint = display.tally.resume_hint
        ending = display.ending("error", 1, f"{type(error).__name__}: {error}", hint)
    else:
        hint = _hint_of(display)
        ending = display.ending("interrupted", 130, "interrupted", hint)
    if hint:
        error.add_note(hint.python)
    display.end(ending)


def _cancelled_message(display: Display) -> str:
    hint = _hint_of(display)
    return f"The call was cancelled. {hint.python if hint else 'Nothing of it is kept.'}"


def _hint_of(display: Display) -> ResumeHint | None:
    """How to go on with what was ended on purpose."""
    return display.tally.resume_hint or (NO_STATE if display.tally.takes_steps else None)
