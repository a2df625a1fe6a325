"""One input at a time in a process of its own, watched: time, memory, message, files touched."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

SECONDS = 30.0
MOST_BYTES = 2_000_000_000
LONGEST_MESSAGE = 2000
DONE, ERROR, USAGE = 0, 1, 2
# What a terminal would obey, new lines and tabs aside.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")

Command = Callable[[Sequence[str]], int]


@dataclass(frozen=True, slots=True)
class Case:
    """One input.

    Attributes:
        kind: of the input, as the report counts them.
        name: what is wrong with it.
        make: writes it into an empty folder and gives the command's arguments.
        command: "convert", "generate", "inspect" …
        is_sound: whether the command must succeed; else it must refuse.
        says: what the message has to hold.
        environment: variables of the command's own.
    """

    kind: str
    name: str
    make: Callable[[Path], Sequence[str | Path]]
    command: str = "convert"
    is_sound: bool = False
    says: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.name}"


@dataclass(slots=True)
class Outcome:
    """What became of an input.

    Attributes:
        code: exit code; None for a process that was ended.
        text: what it printed on stderr.
        faults: what was not as it must be; none if all is well.
    """

    code: int | None
    text: str
    seconds: float
    peak_bytes: int
    faults: list[str] = field(default_factory=list)


def run_case(case: Case, folder: Path) -> Outcome:
    """Run one case in a fork of this process, and judge it.

    Nothing may have been computed here before: threads of MLX do not live on in a fork.
    """
    folder.mkdir(parents=True)
    work, log = folder / "work", folder / "log"
    work.mkdir()
    argv = [str(one) for one in case.make(work)]
    before = fingerprint(work)
    started = time.perf_counter()
    process = os.fork()
    if not process:
        run_in_fork(case, argv, work, log)
    code, peak = _wait(process, started)
    outcome = Outcome(code, log.read_text(errors="replace"), time.perf_counter() - started, peak)
    outcome.faults += judge(case, outcome, before, fingerprint(work), folder)
    return outcome


def run_in_fork(case: Case, argv: Sequence[str], work: Path, log: Path) -> NoReturn:
    """Run a case's command in the process that was forked for it, and end the process."""
    code = 99
    try:
        os.environ.update(case.environment)
        os.setsid()
        os.chdir(work)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
        code = _command(case.command)(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stderr, sys.stdout):
            stream.flush()
        os._exit(code)


def _command(name: str) -> Command:
    from mlx_video.cli import convert, generate, prepare_control, train

    commands = {"convert": convert, "generate": generate, "prepare": prepare_control, "train": train}
    return commands[name].main


def _wait(process: int, started: float) -> tuple[int | None, int]:
    while time.perf_counter() - started < SECONDS:
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return (code if code >= 0 else None), usage.ru_maxrss * 1024
        time.sleep(0.005)
    os.killpg(process, signal.SIGKILL)
    _, _, usage = os.wait4(process, 0)
    return None, usage.ru_maxrss * 1024


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file below a folder and what it holds; devices and pipes by their kind alone."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder)).decode("latin-1")
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file() and path.stat().st_size < 1 << 27:
            found[name] = hashlib.sha1(path.read_bytes()).hexdigest()
    return found


def judge(
    case: Case, outcome: Outcome, before: dict[str, str], after: dict[str, str], folder: Path
) -> Iterator[str]:
    """What is not as it must be."""
    if outcome.code is None:
        yield f"ended by the watchdog or a signal after {outcome.seconds:.1f} s"
        return
    if outcome.peak_bytes > MOST_BYTES:
        yield f"{outcome.peak_bytes / 1e9:.1f} GB of memory"
    wanted = (DONE,) if case.is_sound else (ERROR, USAGE)
    if outcome.code not in wanted:
        yield f"exit code {outcome.code}"
    if "Traceback" in outcome.text or "unexpected " in outcome.text:
        yield "no message of ours"
    if CONTROL.search(outcome.text):
        yield "control codes in the message"
    errors = [line for line in outcome.text.splitlines() if line.startswith("error: ")]
    if outcome.code != DONE and len(errors) != 1:
        yield f"{len(errors)} lines begin with error:"
    if errors and max(map(len, errors)) > LONGEST_MESSAGE:
        yield f"a message of {max(map(len, errors))} characters"
    if case.says and case.says not in outcome.text:
        yield f"does not say {case.says!r}"
    if changed := [name for name, content in before.items() if after.get(name) != content]:
        yield f"changed {', '.join(changed[:3])}"
    if not case.is_sound and (made := [name for name in after.keys() - before.keys() if is_result(name)]):
        yield f"left {', '.join(made[:3])}"
    yield from led_astray(folder)


def led_astray(folder: Path) -> Iterator[str]:
    """What came to lie outside the case's folder, or looks whole in its cache and is not."""
    if (folder.parent / "touched").exists():
        yield "code of the file ran"
    outside = [path.name for path in folder.iterdir() if path.name not in ("work", "log")]
    outside += [path.name for path in folder.parent.iterdir() if not path.name.isdecimal()]
    if outside:
        yield f"wrote {', '.join(outside[:3])} outside"
    for path in (folder / "work").glob("cache/*/models--*/blobs/*"):
        content, name = path.read_bytes(), path.name
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if not name.endswith(".incomplete") and name not in (git, hashlib.sha256(content).hexdigest()):
            yield f"keeps {name} damaged"
    for path in (folder / "work").glob("cache/*/models--*/snapshots/*/**/*"):
        if not path.is_dir() and not path.exists():
            yield f"keeps {path.name}, a link to nothing"


def is_result(name: str) -> bool:
    """Whether a file is a result, or the beginning of one, rather than a folder's or a cache's."""
    return not name.startswith("cache/")
