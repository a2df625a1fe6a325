"""Bytes that the machine has for a run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_video.models.elementwise import on_gpu

GB = 1e9
SHARE = 0.85
"""Of a machine's bytes that a run plans with; the system and other programs have the rest."""
RUNTIME_BYTES = 500_000_000
"""Interpreter, libraries, the device's own buffers, frames on their way to the encoder."""
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
    """

    memory_bytes: int
    working_set_bytes: int
    available_bytes: int | None = None
    on_gpu: bool = False
    can_wire: bool = False
    name: str = ""


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
        reason, usable = "recommended for the GPU" if machine.on_gpu else "physical memory", working_set
    nbytes = max(0, int(SHARE * usable) - RUNTIME_BYTES)
    return Budget(
        nbytes, f"{SHARE:.0%} of {usable / GB:.1f} GB {reason}, less {RUNTIME_BYTES / GB} GB to run"
    )


def find_machine() -> Machine:
    """The machine that this process runs on."""
    info = mx.device_info()
    memory = int(info.get("memory_size", 0)) or _physical_bytes()
    is_on_gpu = on_gpu()
    working_set = int(info.get("max_recommended_working_set_size", 0)) if is_on_gpu else 0
    return Machine(
        memory_bytes=memory,
        working_set_bytes=working_set or memory,
        available_bytes=_available_bytes(),
        on_gpu=is_on_gpu,
        can_wire=is_on_gpu and _can_wire(platform.mac_ver()[0]),
        name=str(info.get("device_name", platform.machine())),
    )


def _can_wire(macos_version: str) -> bool:
    return bool(macos_version) and int(macos_version.split(".")[0]) >= FIRST_MACOS_WITH_WIRING


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available_bytes() -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        return read_meminfo(meminfo.read_text())
    vm_stat = Path("/usr/bin/vm_stat")
    if vm_stat.is_file():
        printed = subprocess.run([vm_stat], capture_output=True, text=True, check=False).stdout
        return read_vm_stat(printed)
    return None


def read_meminfo(text: str) -> int | None:
    """Available bytes from Linux' /proc/meminfo; None where it does not say."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def read_vm_stat(text: str) -> int | None:
    """Available bytes from what macOS' vm_stat prints: free pages, and pages that are only copies."""
    size = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)\.", text, re.MULTILINE)
    return int(size[1]) * sum(map(int, pages)) if size and pages else None
