"""Results, error texts and exit codes; the only module that writes to stdout."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mlx_video.cli.when_done import tell_user
from mlx_video.errors import MLXVideoError, RequestError
from mlx_video.events import Event, FileUploaded, FileWritten, TextResult, VideoFailed
from mlx_video.progress.display import Display, Ending
from mlx_video.progress.surroundings import choose_display
from mlx_video.quoting import printable
from mlx_video.request import flag_of

EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def run_command(
    build_events: Callable[[argparse.Namespace], Iterator[Event]], args: argparse.Namespace
) -> int:
    """Run a pipeline, show its events, and turn whatever happens into an exit code.

    Args:
        build_events: makes the pipeline from the parsed arguments; may raise like the pipeline itself.
        args: with the options of every command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    with choose_display(is_quiet=args.quiet, as_json=args.json_events) as display:
        ending = perform(lambda: build_events(args), display, with_traceback=args.debug)
        tell_user(ending, display, command=args.notify, rings=args.bell)
    return ending.exit_code


def perform(
    build_events: Callable[[], Iterator[Event]], display: Display, *, with_traceback: bool = False
) -> Ending:
    """Run a pipeline to its end, whatever that is, show its events and how it ended.

    Args:
        build_events: makes the pipeline; may raise like the pipeline itself.
        display: shows what happens.
        with_traceback: whether the traceback of an error is shown too.
    """
    ending = _run(build_events, display)
    display.end(ending if with_traceback else replace(ending, traceback=""))
    if not display.tells_errors:
        show_error(ending, display, with_traceback=with_traceback)
    return ending


def _run(build_events: Callable[[], Iterator[Event]], display: Display) -> Ending:
    """Run a pipeline to its end, whatever that is, and show its events."""
    try:
        for event in build_events():
            _show(event, display)
    except KeyboardInterrupt:
        return _end_interrupted(display)
    except Exception as error:
        if isinstance(error, ImportError) and _comes_of_interrupt(error):
            return _end_interrupted(display)
        code = EXIT_USAGE if isinstance(error, RequestError) else EXIT_ERROR
        ending = display.ending("error", code, describe_error(error), display.tally.resume_hint)
        return replace(ending, traceback=traceback.format_exc())
    return display.ending("success", EXIT_DONE)


def _end_interrupted(display: Display) -> Ending:
    text = "interrupted; unfinished files were removed."
    return display.ending("interrupted", EXIT_INTERRUPTED, text, display.tally.resume_hint)


def _show(event: Event, display: Display) -> None:
    """Show one event; results go to stdout, and a video of a list that failed is told as errors are."""
    display.show(event)
    match event:
        case FileWritten(result) | TextResult(result) | FileUploaded(result):
            display.close()
            _print_result(result)
        case VideoFailed(index, total, name, error) if not display.tells_errors:
            text = f"video {index + 1} of {total} ({name}): {describe_error(error)}"
            show_error(display.ending("error", EXIT_ERROR, text, display.tally.resume_hint), display)


def show_error(ending: Ending, display: Display, *, with_traceback: bool = False) -> None:
    """Print what went wrong, also when quiet, and how to go on with a run of which a state is kept."""
    if not ending.message:
        return
    display.close()
    hint = ending.resume_hint.command if ending.resume_hint else ""
    with suppress(OSError):
        if with_traceback:
            print(ending.traceback, file=display.stream)
        print(f"error: {ending.message}", file=display.stream, flush=True)
        if hint:
            print(hint, file=display.stream, flush=True)


def print_error(error: Exception) -> None:
    """Print what went wrong in a process that shows nothing else."""
    with suppress(OSError):
        print(f"error: {describe_error(error)}", file=sys.stderr, flush=True)


def _print_result(result: Path | str) -> None:
    """Print a path or a text on stdout.

    What the encoding cannot spell is escaped in a text; a path comes byte for byte as the system knows it.
    """
    try:
        print(result, flush=True)
    except UnicodeEncodeError:
        if isinstance(result, Path):
            spelt = os.fsencode(result)
        else:
            spelt = result.encode(sys.stdout.encoding, "backslashreplace")
        sys.stdout.buffer.write(spelt + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on, and the file is made. Without this Python would complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _comes_of_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error: some libraries turn it into one while they are imported."""
    cause = error.__cause__ or error.__context__
    return cause is not None and (isinstance(cause, KeyboardInterrupt) or _comes_of_interrupt(cause))


def describe_error(error: Exception) -> str:
    """The text a user sees; options appear as flags, and what a library quotes is made fit for a terminal."""
    return printable(_describe_error(error))


def _describe_error(error: Exception) -> str:
    if isinstance(error, RequestError):
        return f"{flag_of(error.field)} {error.message}"
    if isinstance(error, MLXVideoError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'output'}: the disk is full. Free some space and run again."
    if isinstance(error, OSError):
        return f"{error.filename or 'file'}: {error.strerror or error}. Check the path and its permissions."
    if isinstance(error, MemoryError) or "malloc]" in str(error):  # the latter is how MLX reports it
        return f"not enough memory ({error}). Choose a smaller size or fewer frames, or close other programs."
    return f"unexpected {type(error).__name__}: {error}. Run again with --debug and report the traceback."
