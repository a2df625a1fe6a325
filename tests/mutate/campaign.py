"""Mutants: chosen by a seed over all rooms, and each met by the tests that come past its line."""

from __future__ import annotations

import ast
import math
import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.mutate.mistakes import Mistake, find_mistakes
from tests.mutate.reach import PACKAGE, ROOT, Reach, room_of

# What tests need of a checkout.
COPIED = (
    *(PACKAGE, "tests", "docs", "examples", "benchmarks"),
    *("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"),
)
SHARE = 0.05
"""What the tests of one mutant may take together, of all tests in the measured run."""
LIMIT_S = 240.0
"""After so long a mutant that keeps its tests from ending counts as noticed."""
BY_PROCESSES = {
    "mlx_video/distributed/": ("tests/distributed", "tests/runs/cluster"),
    "mlx_video/runs/cluster/": ("tests/runs/cluster",),
    "mlx_video/training/cluster/": ("tests/training/test_several_machines.py",),
    "mlx_video/server/": ("tests/server",),
}
"""Tests that start other processes, of which no line is measured; they run behind those that come past."""
UNKNOWN_TESTS = 4
"""What pytest ends with where a test that it is to run is not there."""
KILLED, SURVIVED, UNREACHED, EQUIVALENT = "killed", "survived", "reached by no test", "equivalent"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One file with one mistake.

    Attributes:
        file: as `mlx_video/room/file.py`.
        owner: function or class that it lies in, as `Class.function`; "" for a module's own lines.
        mistake: what is changed.
        before: the text that the mistake takes the place of.
    """

    file: str
    owner: str
    mistake: Mistake
    before: str

    @property
    def room(self) -> str:
        """The room of the file."""
        return room_of(self.file)

    @property
    def key(self) -> str:
        """What the mutant is called wherever its line moves to."""
        return f"{self.file} {self.owner}: {_one_line(self.before)} -> {_one_line(self.mistake.text)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        mutant: tried.
        state: one of this module's words.
        tests: how many were run.
        note: test that noticed it, or why none can.
    """

    mutant: Mutant
    state: str
    tests: int
    note: str = ""


def choose_mutants(count: int, seed: int, only: str = "") -> list[Mutant]:
    """Mutants of all rooms: of a room as many as the root of its size asks, at least three.

    Of a room a kind of mistake is drawn first, so that rare kinds are not lost among frequent ones.

    Args:
        count: of mutants.
        seed: other seeds choose others.
        only: part of a file's path.
    """
    rooms: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in _all_mutants():
        if only in mutant.file:
            rooms[mutant.room].append(mutant)
    weights = {room: math.sqrt(len(found)) for room, found in rooms.items()}
    chosen: list[Mutant] = []
    for room, found in sorted(rooms.items()):
        share = max(3, round(count * weights[room] / sum(weights.values())))
        chosen += _draw(found, share, random.Random(f"{seed} {room}"))
    return chosen


@cache
def _all_mutants() -> tuple[Mutant, ...]:
    files = (path for path in sorted((ROOT / PACKAGE).rglob("*.py")) if not path.name.startswith("__"))
    return tuple(
        mutant
        for path in files
        for mutant in find_mutants(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    )


def find_mutants(file: str, source: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    lines = source.encode().splitlines(keepends=True)
    owners = _owners(ast.parse(source), len(lines))
    for mistake in find_mistakes(source):
        yield Mutant(file, owners[mistake.line], mistake, _text(lines, mistake))


def _draw(found: list[Mutant], share: int, luck: random.Random) -> list[Mutant]:
    by_kind: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in found:
        by_kind[mutant.mistake.kind].append(mutant)
    drawn: dict[str, Mutant] = {}
    for _ in range(20 * share):
        if len(drawn) == share:
            break
        mutant = luck.choice(by_kind[luck.choice(sorted(by_kind))])
        drawn.setdefault(f"{mutant.file}:{mutant.mistake.line}", mutant)
    return list(drawn.values())


def _owners(tree: ast.Module, count: int) -> list[str]:
    """For each line, from 1, what it lies in."""
    owners = [""] * (count + 1)
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    for node in sorted(nodes, key=lambda node: node.lineno):
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            owners[line] = f"{owners[line]}.{node.name}".lstrip(".")
    return owners


def _text(lines: list[bytes], mistake: Mistake) -> str:
    part = lines[mistake.line - 1 : mistake.end_line]
    part[-1] = part[-1][: mistake.end_column]
    part[0] = part[0][mistake.column :]
    return b"".join(part).decode()


def _one_line(text: str) -> str:
    return " ".join(text.split())


class Workplace:
    """A copy of the checkout in which mutants are tried one after another.

    Args:
        folder: to make; a copy that is there is made anew.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            folder.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, folder / name)
        self._folder = folder

    def try_mutant(self, mutant: Mutant, reach: Reach, reasons: dict[str, str]) -> Outcome:
        """Run the tests that come past a mutant's lines until one fails.

        Args:
            mutant: to try.
            reach: of the tests.
            reasons: keys of mutants that no test can notice → why.
        """
        mistake = mutant.mistake
        tests = reach.tests_of(
            mutant.file, mistake.line, mistake.end_line, SHARE * sum(reach.seconds.values())
        )
        tests += [
            name for folder, names in BY_PROCESSES.items() if mutant.file.startswith(folder) for name in names
        ]
        if not tests:
            state = EQUIVALENT if mutant.key in reasons else UNREACHED
            return Outcome(mutant, state, 0, reasons.get(mutant.key, ""))
        path = self._folder / mutant.file
        source = path.read_text(encoding="utf-8")
        try:
            path.write_text(mistake.apply(source), encoding="utf-8")
            noticed = self._first_failure(tests)
        finally:
            path.write_text(source, encoding="utf-8")
        if noticed is not None:
            return Outcome(mutant, KILLED, len(tests), noticed)
        state = EQUIVALENT if mutant.key in reasons else SURVIVED
        return Outcome(mutant, state, len(tests), reasons.get(mutant.key, ""))

    def _first_failure(self, tests: list[str]) -> str | None:
        """The test that fails first, "time" where they do not end; None where all pass."""
        command = [
            sys.executable, "-B", "-m", "pytest", "-o", "addopts=", "-x", "-q", "--tb=line",
            "-m", "not nightly", "-p", "no:cacheprovider", "-p", "no:cov", *tests,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(self._folder)}
        try:
            result = subprocess.run(
                command, cwd=self._folder, env=environment, capture_output=True, text=True, check=False,
                errors="replace", timeout=LIMIT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "time"
        if result.returncode == 0:
            return None
        if result.returncode == UNKNOWN_TESTS:
            raise RuntimeError(f"The tests are others than those measured: {result.stderr[-300:]}")
        failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0].split()[1] if failed else (result.stdout + result.stderr).strip()[-200:]
