"""The check of the device before a run, remembered between runs, and a run held to what it found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_video.device.check import Result, check
from mlx_video.device.failures import find_failure
from mlx_video.device.operations import OPERATIONS, Operation, Sizes
from mlx_video.device.report import (
    Memory,
    Report,
    rate_notices,
    summary_lines,
    table_lines,
    this_machine,
    write_report,
)
from mlx_video.errors import DeviceError, MediaError
from mlx_video.events import Event, FileWritten, Notice, OperationsChecked, TextResult, Work
from mlx_video.files.cache_folder import cache_folder
from mlx_video.models.dispatch import current_limits, use_limits
from mlx_video.models.elementwise import on_gpu
from mlx_video.runs.run import Run


def quick_operations() -> tuple[Operation, ...]:
    """The part of the table that is checked before a run."""
    return tuple(operation for operation in OPERATIONS if operation.is_quick)


def check_device(*, is_quick: bool, is_full: bool, path: Path | None) -> Iterator[Event]:
    """Check every operation on the default device and show what was found.

    Args:
        is_quick: only what is checked before a run.
        is_full: at the sizes of real videos also on a CPU, which takes long.
        path: where the report is written as JSON; None for nowhere.

    Raises:
        DeviceError: an operation gives wrong numbers, and there is no other way.
        MediaError: the report cannot be written.
    """
    operations = quick_operations() if is_quick else OPERATIONS
    sizes = choose_sizes(is_quick=is_quick, is_full=is_full)
    yield Notice(f"Checking {this_machine().describe()}, {sizes} sizes ...")
    report = yield from _run_check(operations, sizes)
    yield TextResult("\n".join([*table_lines(report.results), "", *summary_lines(report)]))
    if path:
        write_report(report, path)
        yield FileWritten(path)
    if report.wrong:
        raise DeviceError(describe_wrong(report))


def choose_sizes(*, is_quick: bool, is_full: bool) -> Sizes:
    """How large operations are tried: a CPU gets small ones, since faults of size are those of GPUs."""
    if is_full:
        return "full"
    if not on_gpu():
        return "small"
    return "medium" if is_quick else "full"


def _run_check(operations: Sequence[Operation], sizes: Sizes) -> Work[Report]:
    results: list[Result] = []
    for result in check(operations, sizes):
        results.append(result)
        yield OperationsChecked(len(results), len(operations))
    return Report(this_machine(), tuple(results))


def describe_wrong(report: Report) -> str:
    """The error of operations without another way."""
    first = report.wrong[0]
    others = f" and {len(report.wrong) - 1} more" if len(report.wrong) > 1 else ""
    failure = f" ({first.note.splitlines()[0]})" if first.note else ""
    return (
        f"{first.name} ({first.size}){others}: error {first.error:.1e} where rounding explains "
        f"{first.bound:.0e}{failure}. {report.machine.describe()} gives wrong numbers, and a video would be "
        "noise or black. Install the newest MLX (pip install -U mlx) and see python -m "
        "mlx_video.check_device; --no-device-check goes on regardless."
    )


def with_safe_limits(run: Run) -> Run:
    """A run held to what is known of the device, which is checked the first time.

    Raises:
        DeviceError: an operation gives wrong numbers, and there is no other way.
    """
    usual = current_limits()
    usual = replace(usual, fuses=usual.fuses and run.request.compile)
    if not run.request.device_check:
        return replace(run, limits=usual)
    report = recall_or_check()
    if report.wrong:
        raise DeviceError(describe_wrong(report))
    notices = (*run.plan.notices, *report_fallbacks(report), *map(Notice, rate_notices(report)))
    limits = report.safe_limits(usual)
    if not run.request.kernels:
        limits = replace(limits, kernels=frozenset())
    return replace(run, plan=replace(run.plan, notices=notices), limits=limits)


def recall_or_check() -> Report:
    """What an earlier check of this machine found, or one made now.

    Wrong results without another way are not remembered: they may have had a passing cause.
    """
    machine, operations = this_machine(), quick_operations()
    known = _memory().recall(machine) or Report(machine, ())
    if {operation.name for operation in operations} <= {result.name for result in known.results}:
        return known
    # Never checked, or by a table that lacked some.
    results = tuple(check(operations, choose_sizes(is_quick=True, is_full=False)))
    report = replace(known, results=results)
    if not report.wrong:
        _remember(report)
    return report


def report_fallbacks(report: Report) -> Iterator[Notice]:
    """Say what is done differently on this device."""
    for result in report.avoided:
        yield Notice(f"{result.name} gives wrong results with {report.machine.describe()}: {result.note}.")
    if report.shortened < 1:
        yield Notice(
            "The GPU gave up on work that took too long; chunks have "
            f"{report.shortened:g} times the usual length."
        )


@contextmanager
def held_to_limits(run: Run) -> Iterator[None]:
    """Keep a run's limits in force for the length of a `with` block.

    Where the GPU gives up on a dispatch nevertheless, later runs get shorter ones. The step is not repeated:
    what the GPU had begun is lost, and nobody knows which arrays hold it.

    Raises:
        DeviceError: the GPU gave up on its work.
        MemoryBudgetError: it had no memory left.
    """
    try:
        with use_limits(run.limits):
            yield
    except RuntimeError as error:
        failure = find_failure(str(error))
        if failure is None:
            raise
        mx.clear_cache()
        if failure.took_too_long:
            _shorten()
        raise failure.error(failure.describe(str(error))) from error


def _shorten() -> None:
    memory, machine = _memory(), this_machine()
    report = memory.recall(machine) or Report(machine, ())
    _remember(replace(report, shortened=report.shortened / 2))


def _memory() -> Memory:
    return Memory(cache_folder() / "device")


def _remember(report: Report) -> None:
    # A folder that takes no files costs the next run a second, and no more.
    with suppress(MediaError):
        _memory().remember(report)
