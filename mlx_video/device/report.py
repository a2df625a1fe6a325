"""What a check found: as text, as JSON, and remembered between runs."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import __version__
from mlx_video.device.check import Result, change_limits
from mlx_video.device.known_faults import find_faults, has_tensor_units
from mlx_video.device.operations import BFLOAT16_PRODUCT, FLOAT16_PRODUCT
from mlx_video.files.whole_file import written_whole
from mlx_video.models.dispatch import Limits, device_facts, find_chip, with_measured_rate

TOO_SLOW = 0.5
"""Part of the tabled rate below which products cannot run on tensor units: without these it is a quarter."""
CLEARLY_FASTER = 1.15


@dataclass(frozen=True, slots=True)
class Machine:
    """What a check holds for; another release or system is checked anew.

    Attributes:
        mlx, mlx_video: versions.
        device: the default one, "gpu: Apple M4 Max".
        architecture: of that device, "applegpu_g16s".
        system: with its version.
    """

    mlx: str
    mlx_video: str
    device: str
    architecture: str
    system: str

    def describe(self) -> str:
        """In a few words."""
        return f"mlx {self.mlx} on {self.device} ({self.architecture}), {self.system}"


def this_machine() -> Machine:
    """The machine as it is now, with its default device."""
    info = device_facts()
    return Machine(
        mlx=mx.__version__,  # type: ignore[attr-defined]  # missing from the stubs
        mlx_video=__version__,
        device=f"{mx.default_device().type.name}: {info.get('device_name', 'unknown')}",
        architecture=str(info.get("architecture", "")),
        system=platform.platform(),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one check.

    Attributes:
        machine: that was checked.
        results: in the order of the table.
        shortened: part of its time that a dispatch may take; less than 1 after one was aborted.
    """

    machine: Machine
    results: tuple[Result, ...]
    shortened: float = 1.0

    @property
    def wrong(self) -> tuple[Result, ...]:
        """Operations that give garbage, with no fallback."""
        return tuple(result for result in self.results if result.verdict == "wrong")

    @property
    def avoided(self) -> tuple[Result, ...]:
        """Operations that give garbage, and which a fallback replaces."""
        return tuple(result for result in self.results if result.verdict == "avoided")

    @property
    def attention_rate(self) -> float | None:
        """Operations a second of attention; None where it was not measured."""
        rates = (result.flops_per_second for result in self.results)
        return next((rate for rate in rates if rate), None)

    def product_rate(self, name: str) -> float | None:
        """Operations a second of the products tried under a name; None where there was no right result."""
        for result in self.results:
            if result.name == name and result.verdict in ("right", "imprecise"):
                return 2 * math.prod(map(int, result.size.split("×"))) / result.seconds
        return None

    def safe_limits(self, limits: Limits) -> Limits:
        """Limits that avoid what is faulty, take what is faster, and count on the rate that was measured."""
        if rate := self.attention_rate:
            limits = with_measured_rate(limits, rate)
        for result in self.results:
            if result.verdict != "wrong":
                limits = change_limits(limits, result.changes)
        return replace(limits, seconds=limits.seconds * self.shortened)


def to_json(report: Report) -> dict[str, Any]:
    """A report as plain values; an infinite error is null."""
    results = [asdict(result) | {"error": _finite(result.error)} for result in report.results]
    faults = [asdict(fault) for fault in find_faults(report.machine.mlx, report.machine.architecture)]
    return {
        "machine": asdict(report.machine),
        "attention_flops_per_second": report.attention_rate,
        "operations": results,
        "shortened": report.shortened,
        "known_faults": faults,
    }


def from_json(values: Mapping[str, Any]) -> Report:
    """Undo :func:`to_json`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: these are no values of a report.
    """
    results = tuple(
        Result(**{**entry, "error": math.inf if entry["error"] is None else float(entry["error"])})
        for entry in values["operations"]
    )
    known = {option.name for option in fields(Limits)}
    if not all(result.changes.keys() <= known for result in results):
        raise ValueError("changes of unknown limits")
    return Report(Machine(**values["machine"]), results, float(values["shortened"]))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON.

    Raises:
        MediaError: the file cannot be written.
    """
    with written_whole(path) as temporary:
        temporary.write_text(
            json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Reports on disk, one for each machine as it was when checked.

    Attributes:
        folder: made when something is stored.
    """

    folder: Path

    def recall(self, machine: Machine) -> Report | None:
        """The report of a machine; None where there is none, or it is damaged."""
        try:
            report = from_json(json.loads(self.path_of(machine).read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError, AttributeError):
            return None
        return report if report.machine == machine else None

    def remember(self, report: Report) -> None:
        """Keep a report in place of an earlier one of its machine.

        Raises:
            MediaError: the folder takes no files.
        """
        write_report(report, self.path_of(report.machine))

    def path_of(self, machine: Machine) -> Path:
        """The file of a machine, which need not exist."""
        key = hashlib.sha256(json.dumps(asdict(machine), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key[:16]}.json"


def rate_notices(report: Report) -> list[str]:
    """What a GPU's rates of products tell: tensor units that are not in use, a type that is faster."""
    machine, notices = report.machine, []
    device_name = machine.device.removeprefix("gpu: ")
    rate = report.product_rate(BFLOAT16_PRODUCT)
    if device_name == machine.device or not rate:
        return []
    chip = find_chip(device_name, machine.architecture)
    if has_tensor_units(machine.architecture) and rate < TOO_SLOW * chip.tflops * 1e12:
        notices.append(
            f"Products in bfloat16 reach {rate / 1e12:.3g} TFLOPS, less than half of this chip's "
            f"{chip.tflops:g}: its tensor units are not in use. They need macOS 26.2 and MLX's own package: "
            "pip install -U mlx."
        )
    half = report.product_rate(FLOAT16_PRODUCT)
    if half and half >= CLEARLY_FASTER * rate:
        notices.append(
            f"Products in float16 are {half / rate:.2g} times as fast as in bfloat16: a model converted with "
            "--dtype float16 takes less time, if its values stay below 65,504; a run says where they do not."
        )
    return notices


HEADINGS = ("operation", "size", "error", "expected", "ms", "verdict")


def table_lines(results: Sequence[Result]) -> list[str]:
    """Results as a table, its heading first; failures and fallbacks taken on lines of their own below."""
    rows = [HEADINGS, *(_cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for position, result in reversed(list(enumerate(results, start=1))):
        if result.note:
            lines.insert(position + 1, f"  {result.note.splitlines()[0]}")
    return [line.rstrip() for line in lines]


def _cells(result: Result) -> tuple[str, ...]:
    return (
        result.name,
        result.size,
        f"{result.error:.1e}",
        f"{result.bound:.0e}",
        f"{1000 * result.seconds:.1f}",
        result.verdict,
    )


def summary_lines(report: Report) -> list[str]:
    """What a report comes to, and the known faults of the machine's MLX and chip."""
    verdicts = [result.verdict for result in report.results]
    lines = [", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))]
    if report.attention_rate:
        lines.append(f"attention: {report.attention_rate / 1e12:.3g} TFLOPS")
    lines += rate_notices(report)
    if report.machine.device.startswith("cpu"):
        lines.append("This is a CPU: what goes wrong on GPUs alone was not tested.")
    faults = find_faults(report.machine.mlx, report.machine.architecture)
    lines += ["known faults of this MLX and chip:"] if faults else []
    lines += [f"  {fault.text} {fault.advice} ({fault.source})" for fault in faults]
    return lines
