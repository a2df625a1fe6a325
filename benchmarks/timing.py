"""Time callables against each other in one process, and write the result as a table row.

Work that is compared takes turns: on a machine whose load changes, only times taken side by side can be
divided. Every callable returns the arrays it made; they are evaluated inside the timed call.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

Work = Callable[[], Any]

COLUMNS = (
    "what",
    "model",
    "size",
    "median s",
    "spread s",
    "times floor",
    "peak GB",
    "machine",
    "mlx",
    "commit",
    "command",
)
TABLE_HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall times of one callable.

    Attributes:
        seconds: one entry per repeat, in the order taken.
        peak_bytes: most MLX memory in use at any moment of the repeats, weights and inputs included.
    """

    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the range between the first and the third quartile; 0 for a single repeat."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / 2


def alternate(
    works: Mapping[str, Work],
    *,
    warmups: int = 1,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time several callables in turns, so that each meets the same load.

    Args:
        works: label → callable that returns the arrays to evaluate (any tree of arrays, or None).
        warmups: rounds that are run and not counted.
        repeats: rounds that count.
        clock: of seconds; that of the process, for work on a CPU, leaves out the times in which others run.

    Returns:
        label → Timing.
    """
    seconds: dict[str, list[float]] = {label: [] for label in works}
    peaks = dict.fromkeys(works, 0)
    for turn in range(warmups + repeats):
        for label, work in works.items():
            elapsed, peak = run_once(work, clock)
            if turn >= warmups:
                seconds[label].append(elapsed)
                peaks[label] = max(peaks[label], peak)
    return {label: Timing(tuple(seconds[label]), peaks[label]) for label in works}


def measure(work: Work, *, warmups: int = 1, repeats: int = 5) -> Timing:
    """Time one callable; see :func:`alternate`."""
    return alternate({"work": work}, warmups=warmups, repeats=repeats)["work"]


def run_once(work: Work, clock: Callable[[], float] = time.perf_counter) -> tuple[float, int]:
    """One evaluated call: (seconds, peak bytes of MLX memory during it)."""
    mx.reset_peak_memory()
    started = clock()
    mx.eval(work())
    return clock() - started, mx.get_peak_memory()


def ratio(work: Timing, floor: Timing) -> float:
    """How many times the floor's time the work takes: the median over rounds that ran side by side."""
    return statistics.median(a / b for a, b in zip(work.seconds, floor.seconds, strict=True))


def describe_machine() -> str:
    """Processor, memory and system, in a few words."""
    memory_gb = _memory_bytes() / 1e9
    return f"{_processor()}, {memory_gb:.0f} GB, {platform.system()} {platform.release()}"


def _memory_bytes() -> int:
    if sys.platform == "darwin":
        return int(_output_of(["sysctl", "-n", "hw.memsize"]) or 0)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    if sys.platform == "darwin":
        return _output_of(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x{len(names)}" if names else platform.machine()


def current_commit() -> str:
    """Short hash of the checked-out commit; "uncommitted" where there is none."""
    return _output_of(["git", "rev-parse", "--short", "HEAD"]) or "uncommitted"


def _output_of(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def command_line() -> str:
    """The command that repeats this run from the project's folder."""
    script = Path(sys.modules["__main__"].__file__ or "").stem
    return " ".join(("python -m", f"benchmarks.{script}", *sys.argv[1:]))


def format_row(what: str, model: str, size: str, timing: Timing, floor: Timing | None = None) -> str:
    """One row of the table whose header is TABLE_HEADER.

    Args:
        what: what was run, for example "transformer forward".
        model: widths or name, bits and dtype.
        size: input size, for example "1560 tokens".
        timing: its times.
        floor: times of the unavoidable work, taken in the same :func:`alternate`.
    """
    cells = (
        what,
        model,
        size,
        f"{timing.median:.4g}",
        f"±{timing.spread:.2g}",
        f"{ratio(timing, floor):.3f}" if floor else "-",
        f"{timing.peak_bytes / 1e9:.3f}",
        describe_machine(),
        mx.__version__,
        current_commit(),
        f"`{command_line()}`",
    )
    return f"| {' | '.join(cells)} |"
