"""Make mutants of the package, and see which of them the tests notice.

python -m tests.mutate
python -m tests.mutate --count 40 --only sampling/ --seed 7

The tests are run once first to learn which comes past which line; `--work-dir` keeps that for the next time,
and what was killed, which is not tried again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from tests.mutate.campaign import EQUIVALENT, KILLED, Mutant, Outcome, Workplace, choose_mutants
from tests.mutate.reach import measure_reach

REASONS = Path(__file__).with_name("equivalent.txt")


def read_reasons() -> dict[str, str]:
    """Keys of mutants that no test can notice → why; a line each, ` | ` between."""
    lines = [line for line in REASONS.read_text(encoding="utf-8").splitlines() if " | " in line]
    return dict(line.rsplit(" | ", 1) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=260, help="of mutants, default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="which of all, default %(default)s")
    parser.add_argument("--only", default="", help="files whose path holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time, default %(default)s")
    parser.add_argument("--marks", default="quick", help="tests, as for pytest -m, default %(default)s")
    parser.add_argument(
        "--also", nargs="+", default=(), help="tests to measure once more, which are new since the last time"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("mutants"), help="default %(default)s")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    args = parser.parse_args()
    mutants = choose_mutants(args.count, args.seed, args.only)
    if args.list:
        print("\n".join(f"{mutant.mistake.line}: {mutant.key}" for mutant in mutants))
        return 0
    started, reach = time.perf_counter(), measure_reach(args.work_dir / args.marks, args.marks)
    if args.also:
        shutil.rmtree(args.work_dir / "also", ignore_errors=True)
        reach = reach.with_more(measure_reach(args.work_dir / "also", "", args.also))
    outcomes, reasons = [], read_reasons()
    killed = Killed(args.work_dir / args.marks / "killed.json")
    workplaces: Queue[Workplace] = Queue()
    for number in range(args.jobs):
        workplaces.put(Workplace((args.work_dir / f"copy_{number}").resolve()))

    def try_one(mutant: Mutant) -> Outcome:
        if known := killed.find(mutant):
            return known
        workplace = workplaces.get()
        try:
            return workplace.try_mutant(mutant, reach, reasons)
        finally:
            workplaces.put(workplace)

    with ThreadPoolExecutor(args.jobs) as pool:
        for number, outcome in enumerate(pool.map(try_one, mutants), 1):
            outcomes.append(outcome)
            killed.keep(outcome)
            mutant = outcome.mutant
            print(
                f"{number}/{len(mutants)} {outcome.state}: line {mutant.mistake.line} of {mutant.key}"
                f" ({mutant.mistake.kind}; {outcome.tests} tests) {outcome.note}",
                flush=True,
            )
    return report(outcomes, time.perf_counter() - started)


class Killed:
    """Mutants that were killed by an earlier run, in a file.

    Args:
        path: of the file; one that is not there holds none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}

    def find(self, mutant: Mutant) -> Outcome | None:
        """What became of a mutant; None unless it was killed."""
        test = self._tests.get(mutant.key)
        return None if test is None else Outcome(mutant, KILLED, 0, test)

    def keep(self, outcome: Outcome) -> None:
        """Remember a mutant that was killed."""
        if outcome.state == KILLED:
            self._tests[outcome.mutant.key] = outcome.note
            self._path.write_text(json.dumps(self._tests, indent=1))


def report(outcomes: list[Outcome], seconds: float) -> int:
    """Print the table of the rooms; 1 where fewer than nine in ten that can be noticed were."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        rooms[outcome.mutant.room][outcome.state] += 1
    print("| room | mutants | killed | equivalent | survived |\n|---|---|---|---|---|")
    for room, counts in sorted(rooms.items()):
        print(row(room, counts))
    total = sum(rooms.values(), Counter())
    print(row("all", total))
    told = total.total() - total[EQUIVALENT]
    print(f"{total[KILLED]} of {told} killed, {total[KILLED] / told:.0%}; {seconds:.0f} s")
    return int(total[KILLED] < 0.9 * told)


def row(name: str, counts: Counter[str]) -> str:
    """A row of the table."""
    alive = counts.total() - counts[KILLED] - counts[EQUIVALENT]
    return f"| {name} | {counts.total()} | {counts[KILLED]} | {counts[EQUIVALENT]} | {alive} |"


if __name__ == "__main__":
    sys.exit(main())
