"""Progress and errors at the terminal."""

from __future__ import annotations

import argparse
import errno
import io
import os
import subprocess
import sys
import threading

import mlx.core as mx
import pytest
from tqdm import tqdm

from mlx_video.cli import console
from mlx_video.cli.arguments import CommonOptions, build_parser
from mlx_video.cli.console import perform, run_command
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import (
    FileWritten,
    Notice,
    ResumeHint,
    StageFinished,
    StageStarted,
    StateSaved,
    StepFinished,
)
from mlx_video.progress.display import Display
from mlx_video.request.kinds import parse_guide_scale


def run(build_events, **options) -> int:
    parser = build_parser("test", None, (CommonOptions,))
    args = parser.parse_args([])
    return run_command(build_events, argparse.Namespace(**(vars(args) | options)))


def failing(error: BaseException):
    def build_events(_):
        yield Notice("begin")
        raise error

    return build_events


def broken_import() -> ImportError:
    """What a compiled library makes of Ctrl-C."""
    error = ImportError("while initializing the extension")
    error.__cause__ = SystemError("inner")
    error.__cause__.__context__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (broken_import(), 130, "error: interrupted"),
        (ImportError("no module"), 1, "error: unexpected ImportError: no module"),
        (CheckpointError("vae.safetensors: not found"), 1, "error: vae.safetensors: not found"),
        (RequestError("num_frames", "80: must be 4n+1."), 2, "error: --num-frames 80: must be 4n+1."),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (OSError(errno.ENOSPC, "No space left", "a.mp4"), 1, "error: a.mp4: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "a.mp4"), 1, "error: a.mp4: Permission denied"),
        (MemoryError("1.8 TiB"), 1, "error: not enough memory (1.8 TiB). Choose a smaller size"),
        (
            RuntimeError("[malloc] Unable to allocate 9 bytes."),
            1,
            "error: not enough memory ([malloc] Unable",
        ),
        (ZeroDivisionError("oops"), 1, "error: unexpected ZeroDivisionError: oops. Run again with --debug"),
    ],
)
def test_errors_become_exit_codes_and_one_line(capsys, error: BaseException, code: int, text: str):
    assert run(failing(error)) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (CheckpointError("broken"), 1), (OSError(), 1)]
)
@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_of_which_a_state_is_kept_ends_with_how_to_go_on(
    capsys, tmp_path, error: BaseException, code: int, quiet: bool
):
    def build_events(_):
        yield StateSaved(tmp_path, 1, 3, ResumeHint("1 of 3 steps", ""))
        yield StateSaved(tmp_path, 2, 3, ResumeHint("2 of 3 steps are kept", ""))
        raise error

    assert run(build_events, quiet=quiet) == code
    *_, first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert second == "2 of 3 steps are kept"


def test_debug_adds_the_traceback(capsys):
    assert run(failing(CheckpointError("broken")), debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_only_results_go_to_stdout(capsys, tmp_path):
    events = [
        Notice("size adjusted"),
        StageStarted("denoise"),
        StepFinished(0, 2, 999.0, 0.1, mx.zeros(1)),
        StageFinished("denoise", 12.34, 3_200_000_000),
        FileWritten(tmp_path / "a.mp4"),
    ]
    assert run(lambda _: iter(events)) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'a.mp4'}\n"
    assert "size adjusted" in captured.err
    assert "denoise: 12.3 s, peak memory 3.20 GB" in captured.err


def test_quiet_shows_errors_only(capsys):
    assert run(failing(CheckpointError("broken")), quiet=True) == 1
    assert capsys.readouterr().err == "error: broken\n"


class ClosedTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


EVENTS = (
    Notice("begin"),
    StageStarted("denoise"),
    StepFinished(0, 2, 999.0, 0.1, mx.zeros(1)),
    StageFinished("denoise", 1.0, 1),
)


def test_work_goes_on_when_the_terminal_is_closed(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    assert run(lambda _: iter((*EVENTS, FileWritten(tmp_path)))) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    assert run(failing(CheckpointError("broken")), debug=True) == 1


def test_a_closed_terminal_holds_up_no_other_thread_that_draws_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    run(lambda _: iter(EVENTS))
    download = threading.Thread(target=lambda: tqdm(disable=True), daemon=True)
    download.start()
    download.join(timeout=20)
    assert not download.is_alive()


def test_bars_are_closed_before_a_result_is_printed(monkeypatch, tmp_path):
    shown: list[str] = []

    class Noted(Display):
        def close(self) -> None:
            shown.append("closed")

    monkeypatch.setattr(console, "_print_result", lambda result: shown.append("printed"))
    ending = perform(lambda: iter([FileWritten(tmp_path)]), Noted(io.StringIO()))
    assert shown[:2] == ["closed", "printed"]
    assert ending.exit_code == 0


def test_a_traceback_is_shown_only_where_it_is_asked_for():
    def fail():
        yield from failing(ZeroDivisionError("a"))(None)

    without, with_it = io.StringIO(), io.StringIO()
    perform(fail, Display(without))
    perform(fail, Display(with_it), with_traceback=True)
    assert "Traceback" not in without.getvalue()
    assert "Traceback" in with_it.getvalue()


def test_work_goes_on_without_any_stderr(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", None)
    assert run(lambda _: iter((*EVENTS, FileWritten(tmp_path)))) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


REPORT = """
import os, sys
from pathlib import Path
from mlx_video.cli.arguments import CommonOptions, build_parser
from mlx_video.cli.console import run_command
from mlx_video.events import FileWritten
path = Path(os.fsdecode(bytes.fromhex(sys.argv[1])))
args = build_parser("test", None, (CommonOptions,)).parse_args([])
sys.exit(run_command(lambda _: iter([FileWritten(path)]), args))
"""


def report_path(name: bytes, stdout: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", REPORT, name.hex()]
    environment = os.environ | environment
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=environment, check=False)


@pytest.mark.parametrize(("name", "encoding"), [("вид.mp4".encode(), "ascii"), (b"\xff.mp4", "utf-8")])
def test_a_path_that_the_terminal_cannot_spell_is_printed_as_its_bytes(name: bytes, encoding: str):
    done = report_path(name, subprocess.PIPE, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, name + b"\n", b"")


def test_a_reader_of_the_result_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = report_path(b"a.mp4", writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("text", "value"), [("5", 5.0), ("3,4", (3.0, 4.0)), ("3.5,3.5", (3.5, 3.5))])
def test_a_guide_scale_is_one_number_or_two(text: str, value: object):
    assert parse_guide_scale(text) == value


@pytest.mark.parametrize("text", ["", "high", "1,2,3", "1,"])
def test_anything_else_is_no_guide_scale(text: str):
    with pytest.raises(ValueError, match="neither a number nor two"):
        parse_guide_scale(text)
