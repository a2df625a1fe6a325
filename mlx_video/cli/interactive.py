"""Prompts typed one after another, with the model in memory: Ctrl-C ends a video, Ctrl-D the session."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from mlx_video.cli.console import EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, Console, describe_error
from mlx_video.cli.many import open_maker, read_many, shared_options
from mlx_video.errors import RequestError
from mlx_video.events import Notice, finish
from mlx_video.request import flag_of, options_of
from mlx_video.request.generate import GenerateRequest
from mlx_video.request.prompt_lines import SHORT_NAMES, PromptLine, read_line

if TYPE_CHECKING:
    from mlx_video.runs.batch.maker import VideoMaker

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
    with Console(is_quiet=args.quiet) as console:
        try:
            read_many(args)
            shared, notices = shared_options(args)
            shared.pop("prompt", None)
            for notice in notices:
                console.show(notice)
            opening = open_maker(args, takes_image=shared["image"] is not None)
            maker: VideoMaker = finish(opening, console.show)
        except KeyboardInterrupt:
            console.show_error("interrupted.")
            return EXIT_INTERRUPTED
        except Exception as error:
            console.show_error(describe_error(error), with_traceback=args.debug)
            return EXIT_USAGE if isinstance(error, RequestError) else EXIT_ERROR
        _Dialogue(console, maker, shared, read or _open_keyboard()).go_on()
    return EXIT_DONE


class _Dialogue:
    """A session at the keyboard.

    Args:
        console: shows what happens.
        maker: makes the videos.
        shared: options of all prompts, which lines of options change.
        read: asks for a line.
    """

    def __init__(
        self, console: Console, maker: VideoMaker, shared: dict[str, Any], read: Callable[[str], str]
    ) -> None:
        self._console = console
        self._maker = maker
        self._shared = shared
        self._read = read
        self._count = 0

    def go_on(self) -> None:
        """Take lines until there are no more."""
        self._console.show(Notice("Type a prompt, or help."))
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

    def _take(self, line: str) -> None:
        if line == "help":
            self._console.show(Notice(HELP))
        elif line == "settings":
            for text in self._describe_settings():
                self._console.show(Notice(text))
        else:
            try:
                self._follow(read_line(line))
            except KeyboardInterrupt:
                self._console.show_error("interrupted; type another prompt, or Ctrl-D to end.")
            except Exception as error:
                self._console.show_error(describe_error(error))
            self._console.resume_hint = ""

    def _follow(self, line: PromptLine) -> None:
        if "prompt" not in line.options and line.options.get("decode_only") is None:
            self._shared |= line.options
            for text in self._describe_settings():
                self._console.show(Notice(text))
            return
        self._make(line)

    def _make(self, line: PromptLine) -> None:
        from mlx_video.runs.batch.item import BatchResult
        from mlx_video.runs.batch.lists import list_videos

        # The video that was interrupted last goes on under its own number.
        goes_on = bool(line.options.get("resume")) and self._count > 0
        self._count += not goes_on
        (item,) = list_videos(self._shared, [line], first_number=self._count, is_several=True)
        with closing(self._maker.make(item)) as making:
            for told in making:
                if not isinstance(told, BatchResult):
                    self._console.show(told)

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
