"""Files that appear whole or not at all, and what killed runs leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_video.files.whole_file import held, publish, remove_leftovers, temporary_sibling, written_whole


def leave_behind(folder: Path, name: str = "a.mp4") -> Path:
    """What a killed run leaves: a temporary file that nobody holds."""
    path = temporary_sibling(folder / name)
    path.write_bytes(b"half")
    return path


def test_leftovers_of_killed_runs_go_and_everything_else_stays(tmp_path: Path):
    leave_behind(tmp_path)
    leave_behind(tmp_path, "no suffix")
    others = [tmp_path / name for name in ("a.mp4", ".partial-mine", ".partial-0123456789ab.d/x", ".hidden")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"kept")
    remove_leftovers(tmp_path)
    assert [path.read_bytes() for path in others] == [b"kept"] * 4
    assert not list(tmp_path.glob(".partial-*.mp4"))


def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path):
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        remove_leftovers(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_file_of_a_killed_process_is_a_leftover(tmp_path: Path):
    program = "import sys; from pathlib import Path; from mlx_video.files.whole_file import held\n" \
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"  # fmt: skip
    path = temporary_sibling(tmp_path / "a.mp4")
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        remove_leftovers(tmp_path)
        assert path.exists()
        process.kill()
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), rename(*names)))
    with held(tmp_path / "a"):
        publish(tmp_path / "a", tmp_path / "b")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("call", ["open", "close", "fsync"])
def test_ctrl_c_during_a_system_call_leaves_no_temporary_file(tmp_path: Path, monkeypatch, call: str):
    """Python raises it once the call is done, so a file that was being made exists by then."""
    complete = getattr(os, call)

    def interrupted(*args: Any) -> None:
        complete(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
