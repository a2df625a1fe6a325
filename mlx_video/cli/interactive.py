"""Prompts typed one after another, with the model in memory: Ctrl-C ends a video, Ctrl-D the session."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_video.cli.checks import check_terminal
from mlx_video.cli.console import EXIT_DONE, perform
from mlx_video.cli.many import open_maker, read_many, shared_options
from mlx_video.cli.named_model import inputs_among
from mlx_video.cli.when_done import tell_user
from mlx_video.events import Event, Notice
from mlx_video.progress.display import Ending
from mlx_video.progress.surroundings import choose_display
from mlx_video.request import flag_of, options_of
from mlx_video.request.generate import GenerateRequest
from mlx_video.request.prompt_lines import SHORT_NAMES, PromptLine, read_line

if TYPE_CHECKING:
    from mlx_video.runs.batch.maker import VideoMaker

Perform = Callable[[Callable[[], Iterator[Event]]], Ending]
"""Lets a pipeline work, and shows its events and how it ended."""

ASK = "prompt> "
_SHORT = ", ".join(f"--{short} ({flag_of(name)})" for short, name in SHORT_NAMES.items())
HELP = f"""\
Type a prompt; options may stand behind it: a cat --w 832 --seed 7. Every option of the command is known,
and {_SHORT}.
A line of options alone holds for all prompts that follow. Other lines: help, settings, quit.
Ctrl-C ends the video that is being made; what it has is kept: the same line with --resume goes on with it.
Ctrl-D ends the session."""


def run_interactive(args: argparse.Namespace, read: Callable[[str], str] | None = None) -> int:
    """Make videos of prompts as they are typed.

    Args:
        args: parsed, of the generate command.
        read: asks for a line, and raises EOFError when there is none; None for the keyboard, with history
            and editing where Python has them.

    Returns:
        0 when the session ended by Ctrl-D or `quit`, 1 or 2 if the model or the options cannot be used, 130
        if it was interrupted while the model was opened.
    """
    opened: list[tuple[VideoMaker, dict[str, Any]]] = []

    def opening() -> Iterator[Event]:
        read_many(args)
        shared, notices = shared_options(args)
        shared.pop("prompt", None)
        yield from notices
        opened.append(((yield from open_maker(args, inputs_among(shared))), shared))

    perform_alone: Perform = partial(_perform, args)
    ending = perform_alone(opening)
    if not opened:
        return ending.exit_code
    _Dialogue(perform_alone, *opened[0], read or _open_keyboard(), is_quiet=args.quiet).go_on()
    return EXIT_DONE


def _perform(args: argparse.Namespace, build_events: Callable[[], Iterator[Event]]) -> Ending:
    """Run a pipeline with a display of its own: each has its own times, and notices that are told once.

    The user is told of what is made, and of what fails; an answer to a question is there at once.
    """
    with choose_display(is_quiet=args.quiet, as_json=args.json_events) as display:
        ending = perform(build_events, display, with_traceback=args.debug)
        if ending.outputs or ending.status != "success":
            tell_user(ending, display, command=args.notify, rings=args.bell)
    return ending


class _Dialogue:
    """A session at the keyboard.

    Args:
        perform: lets a pipeline work and shows what happens.
        maker: makes the videos.
        shared: options of all prompts, which lines of options change.
        read: asks for a line.
        is_quiet: whether nothing is shown of a video that is being made.
    """

    def __init__(
        self,
        perform: Perform,
        maker: VideoMaker,
        shared: dict[str, Any],
        read: Callable[[str], str],
        *,
        is_quiet: bool = False,
    ) -> None:
        self._perform = perform
        self._maker = maker
        self._shared = shared
        self._read = read
        self._is_quiet = is_quiet
        self._count = 0

    def go_on(self) -> None:
        """Take lines until there are no more."""
        self._say("Type a prompt, or help.")
        while True:
            try:
                line = self._read(ASK).strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                continue  # what was typed is dropped, as in a shell
            if line in ("quit", "exit"):
                return
            if line and not line.startswith("#"):
                self._take(line)

    def _say(self, *texts: str) -> None:
        self._perform(lambda: map(Notice, texts))

    def _take(self, line: str) -> None:
        if line == "help":
            self._say(HELP)
        elif line == "settings":
            self._say(*self._describe_settings())
        elif self._perform(lambda: self._follow(line)).status == "interrupted":
            self._say("Type another prompt, or Ctrl-D to end.")

    def _follow(self, text: str) -> Iterator[Event]:
        line = read_line(text)
        if "prompt" in line.options or line.options.get("decode_only") is not None:
            yield from self._make(line)
        else:
            self._shared |= line.options
            yield from map(Notice, self._describe_settings())

    def _make(self, line: PromptLine) -> Iterator[Event]:
        from mlx_video.runs.batch.item import BatchResult
        from mlx_video.runs.batch.lists import list_videos

        # The video that was interrupted last goes on under its own number.
        goes_on = bool(line.options.get("resume")) and self._count > 0
        self._count += not goes_on
        (item,) = list_videos(self._shared, [line], first_number=self._count, is_several=True)
        check_terminal(item.request, is_shown=not self._is_quiet)
        with closing(self._maker.make(item)) as making:
            yield from (told for told in making if not isinstance(told, BatchResult))

    def _describe_settings(self) -> Iterator[str]:
        """The options that hold for the prompts that follow, those that are not at their defaults."""
        found = False
        for name, declared in options_of(GenerateRequest).items():
            value = self._shared.get(name, declared.default)
            if value not in (declared.default, None):
                found = True
                yield f"{declared.flag} {value}"
        if not found:
            yield "All options are at their defaults."


def _open_keyboard() -> Callable[[str], str]:
    """Reads lines with history and editing; without a terminal, plain lines and no question."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input() edits lines once it is imported)
    return input if sys.stdin.isatty() else lambda question: input()
