"""What a user has done at the end of a command: a bell, a command of his own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from mlx_video.cli.arguments import CommonOptions, build_parser
from mlx_video.cli.console import run_command
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import FileWritten, StageFinished
from tests.progress.test_displays import Terminal

NAMES = ("STATUS", "OUTPUT", "MESSAGE", "EXIT_CODE", "SECONDS")


def run(build_events, *words: str) -> int:
    args = build_parser("test", None, (CommonOptions,)).parse_args([*words])
    return run_command(build_events, args)


def ending_with(error: BaseException | None, *events):
    def build_events(_: argparse.Namespace):
        yield from events
        if error:
            raise error

    return build_events


def report_to(path: Path) -> str:
    lines = " ".join(f'"$MLX_VIDEO_{name}"' for name in NAMES)
    return f"printf '%s\\n' {lines} > '{path}'"


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (None, "success", 0, ""),
        (CheckpointError("vae: not found"), "error", 1, "vae: not found"),
        (RequestError("num_frames", "80: must be 4n+1."), "error", 2, "--num-frames 80: must be 4n+1."),
        (KeyboardInterrupt(), "interrupted", 130, "interrupted; unfinished files were removed."),
    ],
)
def test_a_command_of_the_users_learns_how_it_ended(
    tmp_path: Path, monkeypatch, capsys, error: BaseException | None, status: str, code: int, message: str
):
    monkeypatch.chdir(tmp_path)
    events = FileWritten(Path("frames")), FileWritten(Path("a cat.mp4"))
    assert run(ending_with(error, *events), "--notify", report_to(tmp_path / "told")) == code
    told = (tmp_path / "told").read_text().splitlines()
    assert told == [status, str(tmp_path / "a cat.mp4"), message, str(code), "0"]
    assert "--notify" not in capsys.readouterr().err


def test_without_a_result_there_is_no_output(tmp_path: Path):
    assert run(ending_with(CheckpointError("x")), "--notify", report_to(tmp_path / "told")) == 1
    assert (tmp_path / "told").read_text().splitlines()[1] == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "echo begin >&2; echo no such topic >&2; exit 3",
            "ended with exit code 3 and said: no such topic. ",
        ),
        ("exit 4", "ended with exit code 4. Try it in a shell."),
        ("no-such-command-of-ours", "ended with exit code 127"),
        ("a\0b", "cannot be run (embedded null byte). Try it in a shell."),
    ],
)
@pytest.mark.parametrize(("error", "code"), [(None, 0), (CheckpointError("broken"), 1)])
def test_a_command_that_fails_is_said_and_changes_no_exit_code(
    capsys, command: str, said: str, error: BaseException | None, code: int
):
    assert run(ending_with(error), "--notify", command) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("--notify: ")
    assert said in last


def test_what_the_command_prints_does_not_mix_with_results(capfd):
    assert run(ending_with(None, FileWritten(Path("a.mp4"))), "--notify", "echo done; echo done >&2") == 0
    captured = capfd.readouterr()
    assert captured.out == "a.mp4\n"
    assert "done" not in captured.err


def test_the_bell_rings_on_a_terminal_and_only_by_option(monkeypatch, capsys):
    for words, rings in ((("--bell",), True), ((), False), (("--bell", "--quiet"), True)):
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        assert run(ending_with(None), *words) == 0
        assert ("\a" in terminal.getvalue()) is rings
    monkeypatch.undo()
    assert run(ending_with(None), "--bell") == 0
    assert "\a" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, "success", 0),
        (CheckpointError("broken"), "error", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_json_events_are_all_there_is_on_stderr(capsys, error: BaseException | None, status: str, code: int):
    events = StageFinished("denoise", 1.0, 5_000), FileWritten(Path("a.mp4"))
    words = ("--json-events", "--notify", "exit 1")
    assert run(ending_with(error, *events), *words) == code
    captured = capsys.readouterr()
    *others, ending, notice = map(json.loads, captured.err.splitlines())
    assert [each["event"] for each in others] == ["StageFinished", "FileWritten"]
    assert (ending["event"], ending["status"], ending["exit_code"]) == ("Ending", status, code)
    assert (ending["outputs"], ending["peak_bytes"], ending["traceback"]) == (["a.mp4"], 5_000, "")
    assert notice["event"] == "Notice"
    assert captured.out == "a.mp4\n"


def test_json_events_with_debug_hold_the_traceback(capsys):
    assert run(ending_with(CheckpointError("broken")), "--json-events", "--debug") == 1
    (ending,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert "CheckpointError: broken" in ending["traceback"]
    assert run(ending_with(CheckpointError("broken")), "--debug") == 1
    *trace, error = capsys.readouterr().err.splitlines()
    assert error == "error: broken"
    assert trace[0].startswith("Traceback")


def test_quiet_and_json_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as caught:
        run(ending_with(None), "--quiet", "--json-events")
    assert caught.value.code == 2
    assert "not allowed with argument --quiet" in capsys.readouterr().err
