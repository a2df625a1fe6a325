"""Which tests come past a line of the package, and how long each takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData

ROOT = Path(__file__).parents[2]
PACKAGE = "mlx_video"


@dataclass(frozen=True, slots=True)
class Reach:
    """What a measured run of the tests went through.

    Attributes:
        lines: file of the package → line → tests.
        seconds: test → how long it took.
    """

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def with_more(self, more: Reach) -> Reach:
        """Both measurements together; lines are those of the files as they are now."""
        lines = {file: dict(found) for file, found in self.lines.items()}
        for file, found in more.lines.items():
            own = lines.setdefault(file, {})
            for line, tests in found.items():
                own[line] = sorted({*own.get(line, ()), *tests})
        return Reach(lines, {**self.seconds, **more.seconds})

    def tests_of(self, file: str, line: int, end_line: int, budget: float) -> list[str]:
        """The quickest tests that come past some lines, those of the file's own room first.

        Args:
            file: as `mlx_video/room/file.py`.
            line: first.
            end_line: last.
            budget: seconds that they may take together.
        """
        by_line = self.lines.get(file, {})
        reaching = {test for each in range(line, end_line + 1) for test in by_line.get(each, ())}
        reaching &= self.seconds.keys()  # of those that pass
        room = f"tests/{room_of(file)}/"
        if not reaching:  # run when the module is imported
            own = (room, f"tests/test_{room_of(file)}")
            reaching = {test for test in self.seconds if test.startswith(own)}
        chosen, left = [], budget
        for test in sorted(reaching, key=lambda test: (not test.startswith(room), self.seconds.get(test, 0))):
            left -= self.seconds.get(test, 0)
            if left < 0 and chosen:
                break
            chosen.append(test)
        return chosen


def room_of(file: str) -> str:
    """Name of the room that a file lies in; a file beside the rooms is one of its own."""
    _, room, *_ = file.split("/")
    return room.removesuffix(".py")


def measure_reach(folder: Path, marks: str, tests: Iterable[str] = ()) -> Reach:
    """Run the tests once, and note what each comes past.

    Args:
        folder: where the measurements are kept; a later call of the same marks reads them.
        marks: of the tests, as for `pytest -m`.
        tests: paths to run; none for all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data_file, report = folder / "lines.sqlite", folder / "seconds.json"
    if not report.is_file():
        command = [
            sys.executable, "-m", "pytest", "-q", "-n2", "-m", marks,
            f"--cov={PACKAGE}", "--cov-context=test", "--cov-report=",
            "-p", "tests.mutate.seconds", *tests,
        ]  # fmt: skip
        environment = {**os.environ, "COVERAGE_FILE": str(data_file), "SECONDS_FILE": str(report)}
        subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=None)
    data = CoverageData(str(data_file))
    data.read()
    return Reach({_relative(file): _tests_by_line(data, file) for file in data.measured_files()},
                 json.loads(report.read_text()))  # fmt: skip


def _relative(file: str) -> str:
    return Path(file).relative_to(ROOT).as_posix()


def _tests_by_line(data: CoverageData, file: str) -> dict[int, list[str]]:
    found = {}
    for line, contexts in data.contexts_by_lineno(file).items():
        tests = {context.rpartition("|")[0] for context in contexts if context.endswith(("|run", "|setup"))}
        found[line] = sorted(tests)
    return found
