"""Progress, summaries, error text and exit codes; the only module that writes to the terminal."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from mlx_video.errors import MLXVideoError, RequestError
from mlx_video.events import (
    BlocksRead,
    BytesChecked,
    BytesDownloaded,
    BytesWritten,
    Event,
    FileUploaded,
    FileWritten,
    FramesDecoded,
    FramesEncoded,
    MemoryPlanned,
    Notice,
    OperationsChecked,
    StageFinished,
    StageStarted,
    StateSaved,
    StepFinished,
    TextResult,
    TilesDecoded,
    VideoFailed,
    VideoStarted,
)
from mlx_video.request import flag_of

if TYPE_CHECKING:
    from tqdm import tqdm

EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
GB = 1e9
# How to go on with a download that is interrupted.
DOWNLOAD_HINT = "What is downloaded so far stays; the same command goes on from there."


class Console:
    """Shows events on stderr: bars on a terminal, plain lines elsewhere. Results go to stdout.

    A stream that cannot be written to (a closed terminal, the end of `| head`) never ends the work.
    """

    def __init__(self, stream: TextIO | None = None, *, is_quiet: bool = False) -> None:
        self.stream = stream or sys.stderr or io.StringIO()  # a closed stderr is None
        self.is_quiet = is_quiet
        self.bar: tqdm | None = None
        self.bar_key = ""
        self.resume_hint = ""
        self.predicted: Mapping[str, int] = {}
        self.measured: dict[str, int] = {}

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_bar()

    def show(self, event: Event) -> None:
        """Show one event; the paths of finished files go to stdout."""
        if isinstance(event, FileWritten):
            self.close_bar()
            _print_result(event.path)
        elif isinstance(event, FileUploaded):
            self.close_bar()
            _print_result(event.address)
        elif isinstance(event, VideoFailed):
            self.show_error(
                f"video {event.index + 1} of {event.total} ({event.name}): {describe_error(event.error)}"
            )
        elif isinstance(event, StateSaved):
            self.resume_hint = event.resume_hint
        elif isinstance(event, BytesDownloaded | BytesChecked):
            self.resume_hint = DOWNLOAD_HINT if event.done < event.total else ""
            self.show_progress(event)
        elif isinstance(event, TextResult):
            self.close_bar()
            _print_result(event.text)
        else:
            self.show_progress(event)

    def show_progress(self, event: Event) -> None:
        """Show one event on stderr, unless quiet; finished files are not mentioned."""
        if self.is_quiet:
            return
        with suppress(OSError):
            self._show_on_stream(event)

    def _show_on_stream(self, event: Event) -> None:
        match event:
            case Notice(text):
                self.write_line(text)
            case VideoStarted(index, total, name, part):
                self.close_bar()
                self.resume_hint = ""
                self.write_line(f"video {index + 1} of {total}: {name}{f', {part}' if part else ''}")
            case StageStarted(stage):
                self.close_bar()
                self.write_line(f"{stage} ...")
            case MemoryPlanned(predicted, reused, kept):
                self.predicted = predicted
                if reused:
                    self.write_line(f"in memory from an earlier run: {', '.join(reused)}")
                if kept:
                    self.write_line(f"kept in memory for the next run: {', '.join(kept)}")
            case StageFinished(stage, wall_seconds, peak_bytes):
                self.close_bar()
                self.measured[stage] = peak_bytes
                self.write_line(f"{stage}: {wall_seconds:.1f} s, peak memory {peak_bytes / GB:.2f} GB")
            case StepFinished(index, total):
                self.advance("steps", index + 1, total, unit="step")
            case BlocksRead(done, total):
                self.advance("blocks", done, total, unit="block")
            case TilesDecoded(done, total):
                self.advance("tiles", done, total, unit="part")
            case FramesEncoded(done, total) | FramesDecoded(done, total):
                self.advance("frames", done, total, unit="frame")
            case OperationsChecked(done, total):
                self.advance("operations", done, total, unit="operation")
            case BytesDownloaded(done, total):
                self.advance("download", done, total, unit="B")
            case BytesChecked(done, total):
                self.advance("checksums", done, total, unit="B")
            case BytesWritten(component, done, total):
                self.advance(component, done, total, unit="B")

    def summarize(self) -> None:
        """Compare the peaks of memory with what was predicted, where it was."""
        both = [stage for stage in self.measured if stage in self.predicted]
        if both and not self.is_quiet:
            peaks = [(stage, self.measured[stage] / GB, self.predicted[stage] / GB) for stage in both]
            pairs = (f"{stage} {measured:.2f} ({predicted:.2f})" for stage, measured, predicted in peaks)
            with suppress(OSError):
                self.write_line(f"peak memory in GB, and as planned: {', '.join(pairs)}")

    def write_line(self, text: str) -> None:
        """Print a line without tearing a bar apart."""
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def advance(self, key: str, done: int, total: int, *, unit: str) -> None:
        """Move the bar called `key` to `done` of `total`, opening it first if need be."""
        if not self.stream.isatty():
            return
        if self.bar is None or self.bar_key != key:
            self.close_bar()
            self.bar, self.bar_key = self._open_bar(key, total, unit), key
        self.bar.update(done - self.bar.n)
        self.bar.refresh()

    def _open_bar(self, key: str, total: int, unit: str) -> tqdm:
        return _bar_class()(
            total=total,
            desc=key,
            unit=unit,
            unit_scale=unit == "B",
            file=self.stream,
            leave=False,
            dynamic_ncols=True,
        )

    def close_bar(self) -> None:
        """Take the bar off the screen, if there is one."""
        bar, self.bar = self.bar, None
        if bar is not None:
            with suppress(OSError):
                bar.close()

    def show_error(self, text: str, *, with_traceback: bool = False) -> None:
        """Print an error on stderr, also when quiet, and how to go on with a run of which a state is kept."""
        self.close_bar()
        with suppress(OSError):
            if with_traceback:
                traceback.print_exc(file=self.stream)
            print(f"error: {text}", file=self.stream, flush=True)
            if self.resume_hint:
                print(self.resume_hint, file=self.stream, flush=True)


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
def _bar_class() -> type[tqdm]:
    """tqdm with no lock and no thread of its own.

    The lock that all bars of a process share stays taken for ever when a stream breaks under a bar, and
    downloads, which have bars of their own in other threads, would wait for it.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0

    Bar.set_lock(_NoLock())
    return Bar


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


def run_command(
    build_events: Callable[[argparse.Namespace], Iterator[Event]], args: argparse.Namespace
) -> int:
    """Run a pipeline, show its events, and turn whatever happens into an exit code.

    Args:
        build_events: makes the pipeline from the parsed arguments; may raise like the pipeline itself.
        args: with `debug` and `quiet`.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    with Console(is_quiet=args.quiet) as console:
        try:
            for event in build_events(args):
                console.show(event)
            console.summarize()
        except KeyboardInterrupt:
            return _end_interrupted(console)
        except Exception as error:
            if isinstance(error, ImportError) and _comes_of_interrupt(error):
                return _end_interrupted(console)
            console.show_error(describe_error(error), with_traceback=args.debug)
            return EXIT_USAGE if isinstance(error, RequestError) else EXIT_ERROR
    return EXIT_DONE


def _end_interrupted(console: Console) -> int:
    console.show_error("interrupted; unfinished files were removed.")
    return EXIT_INTERRUPTED


def _comes_of_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error: some libraries turn it into one while they are imported."""
    cause = error.__cause__ or error.__context__
    return cause is not None and (isinstance(cause, KeyboardInterrupt) or _comes_of_interrupt(cause))


def describe_error(error: Exception) -> str:
    """The text a user sees; options appear as flags."""
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
