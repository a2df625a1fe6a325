"""Bytes that the machine has for a run."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_video.models.dispatch import device_facts
from mlx_video.models.elementwise import on_gpu

GB = 1e9
SHARE = 0.85
"""Of a machine's bytes that a run plans with; the system and other programs have the rest."""
RUNTIME_BYTES = 500_000_000
"""Interpreter, libraries, the device's own buffers, frames on their way to the encoder."""
GPU_SHARE = 2 / 3
"""Of the memory, what macOS recommends to GPUs of small Macs; larger ones may use more."""
ASSUMED_BYTES = 8 * 2**30
"""Memory of the smallest Mac that MLX runs on."""
SECONDS_TO_ANSWER = 5
FIRST_MACOS_WITH_WIRING = 15
LEAST_CACHE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has, in bytes.

    Attributes:
        memory_bytes: physical memory.
        working_set_bytes: what its GPU should use at most; the physical memory where there is no GPU.
        available_bytes: what other programs leave; None where the system does not tell.
        on_gpu: where a run computes.
        can_wire: whether memory can be kept from being swapped out.
        name: for people.
        notices: what the system did not tell, and what is assumed instead.
        is_assumed: whether `working_set_bytes` is among that.
    """

    memory_bytes: int
    working_set_bytes: int
    available_bytes: int | None = None
    on_gpu: bool = False
    can_wire: bool = False
    name: str = ""
    notices: tuple[str, ...] = ()
    is_assumed: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes of MLX memory a run may have, and why."""

    nbytes: int
    reason: str


def find_budget(machine: Machine, limit_gb: float | None = None) -> Budget:
    """The bytes that a run is planned with.

    Args:
        machine: where it runs.
        limit_gb: what the user allows, in GB of 10⁹ bytes; None for what the machine has.
    """
    if limit_gb is not None:
        return Budget(int(limit_gb * GB), "--memory-limit")
    free, working_set = machine.available_bytes, machine.working_set_bytes
    if free is not None and free < working_set:
        reason, usable = "available now", free
    else:
        told = "recommended for the GPU" if machine.on_gpu else "physical memory"
        reason, usable = "assumed" if machine.is_assumed else told, working_set
    nbytes = max(0, int(SHARE * usable) - RUNTIME_BYTES)
    return Budget(
        nbytes, f"{SHARE:.0%} of {usable / GB:.1f} GB {reason}, less {RUNTIME_BYTES / GB} GB to run"
    )


def find_machine() -> Machine:
    """The machine that this process runs on.

    What one source does not tell is taken from the next; what none tells is assumed, low rather than high.
    """
    info, is_on_gpu = device_facts(), on_gpu()
    told_memory, available = _first_told(_memory_sources(info)), _first_told(_available_sources())
    memory = told_memory or ASSUMED_BYTES
    told_set = _positive(info.get("max_recommended_working_set_size")) if is_on_gpu else told_memory
    return Machine(
        memory_bytes=memory,
        working_set_bytes=told_set or int(GPU_SHARE * memory),
        available_bytes=available,
        on_gpu=is_on_gpu,
        can_wire=is_on_gpu and bool(told_set) and _can_wire(platform.mac_ver()[0]),
        name=str(info.get("device_name") or platform.machine()),
        notices=tuple(_describe_assumed(told_memory, told_set, available)),
        is_assumed=not told_set,
    )


def _describe_assumed(memory: int | None, working_set: int | None, available: int | None) -> Iterator[str]:
    untold, cure = "The system does not tell", "--memory-limit says otherwise."
    if not memory:
        yield f"{untold} how much memory it has: {ASSUMED_BYTES / GB:.1f} GB are assumed; {cure}"
    elif not working_set:
        yield f"{untold} what its GPU may use: {GPU_SHARE:.0%} of the memory is assumed; {cure}"
    if available is None:
        yield f"{untold} what other programs leave: all memory is taken to be free; {cure}"


def _can_wire(macos_version: str) -> bool:
    return bool(macos_version) and int(macos_version.split(".")[0]) >= FIRST_MACOS_WITH_WIRING


Source = Callable[[], object]
"""Gives a number of bytes; or anything else, or an error, where it cannot tell."""


def _first_told(sources: Iterable[Source]) -> int | None:
    """The first number that a source gives."""
    for source in sources:
        with suppress(Exception):  # whatever is wrong with one source, the next may do
            if number := _positive(source()):
                return number
    return None


def _positive(value: object) -> int | None:
    """A number of bytes; None for anything else, among it the 0 and -1 of systems that do not know."""
    return value if isinstance(value, int) and value > 0 else None


def _memory_sources(info: Mapping[str, object]) -> Iterator[Source]:
    yield lambda: info.get("memory_size")
    yield _all_pages
    yield lambda: int(_run("/usr/sbin/sysctl", "-n", "hw.memsize"))
    yield lambda: read_meminfo(Path("/proc/meminfo").read_text(), ("MemTotal",))


def _all_pages() -> int | None:
    counts = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    return math.prod(counts) if min(counts) > 0 else None  # -1 for what the system does not know


def _available_sources() -> Iterator[Source]:
    yield lambda: read_meminfo(Path("/proc/meminfo").read_text())
    yield lambda: read_meminfo(Path("/proc/meminfo").read_text(), ("MemFree", "Buffers", "Cached"))
    yield lambda: read_vm_stat(_run("/usr/bin/vm_stat"))


def _run(*command: str) -> str:
    """What a program of the system prints; it gets a few seconds, and a failure is an error."""
    done = subprocess.run(command, capture_output=True, timeout=SECONDS_TO_ANSWER, check=True)
    return done.stdout.decode("ascii", "replace")


def read_meminfo(text: str, names: Sequence[str] = ("MemAvailable",)) -> int | None:
    """Sum of some lines of Linux' /proc/meminfo, in bytes; None where one is absent."""
    found = [re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in names]
    return sum(int(line[1]) * 1024 for line in found if line) if all(found) else None


def read_vm_stat(text: str) -> int | None:
    """Available bytes from what macOS' vm_stat prints: free pages, and pages that are only copies."""
    size = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)\.", text, re.MULTILINE)
    return int(size[1]) * sum(map(int, pages)) if size and pages else None
