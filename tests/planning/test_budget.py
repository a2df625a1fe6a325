"""What a machine has for a run, and MLX's limits set and put back."""

from __future__ import annotations

import platform
import subprocess

import mlx.core as mx
import pytest

from mlx_video.device.report import this_machine
from mlx_video.models.dispatch import SLOWEST_CHIP, device_limits
from mlx_video.planning import budget
from mlx_video.planning.budget import (
    Budget,
    Machine,
    find_budget,
    find_machine,
    read_meminfo,
    read_vm_stat,
)

MAC = Machine(16_000_000_000, 10_000_000_000, on_gpu=True)

VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            300000.
Pages inactive:                           20000.
Pages speculative:                         3000.
Pages throttled:                              0.
Pages wired down:                        100000.
Pages purgeable:                            400.
"Translation faults":                 123456789.
"""


def test_a_run_has_a_share_of_the_recommended_working_set():
    found = find_budget(MAC)
    assert found.nbytes == 8_000_000_000  # 0.85 · 10 GB - 0.5 GB
    assert found.reason == "85% of 10.0 GB recommended for the GPU, less 0.5 GB to run"


def test_other_programs_leave_less():
    found = find_budget(Machine(16_000_000_000, 10_000_000_000, available_bytes=4_000_000_000))
    assert found.nbytes == 2_900_000_000
    assert "4.0 GB available now" in found.reason


def test_a_machine_with_no_memory_left_has_no_budget():
    assert find_budget(Machine(16, 10, available_bytes=1)).nbytes == 0


def test_a_limit_is_taken_as_it_is():
    assert find_budget(MAC, 3.5) == Budget(3_500_000_000, "--memory-limit")


def test_available_memory_is_read_from_linux_and_macos():
    assert read_meminfo("MemTotal:  24684092 kB\nMemFree:  1 kB\nMemAvailable:   2000 kB\n") == 2_048_000
    assert read_meminfo("MemTotal:  24684092 kB\n") is None
    assert read_vm_stat(VM_STAT) == 16384 * 33_400
    assert read_vm_stat("") is None


def test_this_machine_has_memory():
    machine = find_machine()
    assert 0 < machine.working_set_bytes <= machine.memory_bytes
    assert machine.name


class System:
    """What the system and MLX answer about memory; an exception stands for a query that fails."""

    def __init__(self, patch: pytest.MonkeyPatch, *, on_gpu: bool) -> None:
        self.device: object = RuntimeError("no Metal device")
        self.pages: object = ValueError("unrecognized configuration name")
        self.files: dict[str, str] = {}
        self.programs: dict[str, str] = {}
        patch.setattr(budget, "on_gpu", lambda: on_gpu)
        patch.setattr(mx, "device_info", lambda: self.answer(self.device))
        patch.setattr(budget.os, "sysconf", lambda name: self.answer(self.pages))
        patch.setattr(budget.subprocess, "run", self.run)
        patch.setattr(
            budget.Path, "read_text", lambda path: self.answer(self.files.get(str(path), OSError()))
        )
        patch.setattr(budget.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))

    def answer(self, value: object) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    def run(self, command, **options) -> subprocess.CompletedProcess:
        assert options["timeout"] > 0
        assert options["check"]
        printed = self.answer(self.programs.get(command[0], PermissionError("Operation not permitted")))
        return subprocess.CompletedProcess(command, 0, printed.encode())


@pytest.fixture(params=[True, False], ids=["GPU", "CPU"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch, on_gpu=request.param)


UNTOLD = "The system does not tell"
FREE = f"{UNTOLD} what other programs leave: all memory is taken to be free; --memory-limit says otherwise."


def test_a_system_that_tells_nothing_is_taken_for_the_smallest_mac_and_that_is_said(system: System):
    machine = find_machine()
    assert machine.memory_bytes == 8 * 2**30
    assert machine.working_set_bytes == 8 * 2**30 * 2 // 3
    assert machine.available_bytes is None
    assert not machine.can_wire
    assert machine.name == platform.machine()
    assert machine.notices == (
        f"{UNTOLD} how much memory it has: 8.6 GB are assumed; --memory-limit says otherwise.",
        FREE,
    )
    found = find_budget(machine)
    assert found.reason == "85% of 5.7 GB assumed, less 0.5 GB to run"
    assert found.nbytes == int(0.85 * machine.working_set_bytes) - 500_000_000
    assert find_budget(machine, 20).nbytes == 20_000_000_000


SOURCES = {
    "device": {"device": {"memory_size": 16 * 2**30}},
    "pages": {"pages": 2**17},
    "sysctl": {"programs": {"/usr/sbin/sysctl": f"{16 * 2**30}\n"}},
    "meminfo": {"files": {"/proc/meminfo": f"MemTotal:   {16 * 2**20} kB\n"}},
}


@pytest.mark.parametrize("source", SOURCES)
def test_any_one_source_is_enough_for_the_size_of_memory(system: System, source: str):
    for name, value in SOURCES[source].items():
        setattr(system, name, value)
    machine = find_machine()
    assert machine.memory_bytes == 2**34
    assert FREE in machine.notices
    if machine.on_gpu:
        assert machine.notices[0].startswith(f"{UNTOLD} what its GPU may use: 67% of the memory is assumed")
        assert machine.working_set_bytes == 2**34 * 2 // 3
        assert not machine.can_wire, "MLX refuses to wire more than the device allows, which nobody knows"
    else:
        assert machine.notices == (FREE,)
        assert machine.working_set_bytes == 2**34


@pytest.mark.parametrize("wrong", [0, -1, None, "16 GB", 1.5])
def test_an_answer_that_is_no_size_is_none(system: System, wrong: object):
    system.device = {"memory_size": wrong, "max_recommended_working_set_size": wrong, "device_name": ""}
    system.pages = -1 if wrong is None else 0
    machine = find_machine()
    assert machine.memory_bytes == 8 * 2**30
    assert machine.is_assumed


@pytest.mark.parametrize(
    ("files", "programs", "available"),
    [
        ({"/proc/meminfo": "MemAvailable:  2000 kB\n"}, {}, 2_048_000),
        ({"/proc/meminfo": "MemFree: 100 kB\nBuffers: 200 kB\nCached: 700 kB\n"}, {}, 1_024_000),
        ({}, {"/usr/bin/vm_stat": VM_STAT}, 16384 * 33_400),
        ({"/proc/meminfo": "garbage"}, {"/usr/bin/vm_stat": VM_STAT}, 16384 * 33_400),
        ({"/proc/meminfo": "garbage"}, {"/usr/bin/vm_stat": "garbage"}, None),
        ({}, {"/usr/bin/vm_stat": subprocess.TimeoutExpired("vm_stat", 5)}, None),
        ({}, {"/usr/bin/vm_stat": subprocess.CalledProcessError(1, "vm_stat")}, None),
    ],
)
def test_any_one_source_is_enough_for_what_other_programs_leave(system: System, files, programs, available):
    system.device = {"memory_size": 2**34, "max_recommended_working_set_size": 10**10}
    system.files, system.programs = files, programs
    machine = find_machine()
    assert machine.available_bytes == available
    assert machine.notices == (() if available else (FREE,))
    assert machine.can_wire is machine.on_gpu


def test_a_device_that_tells_nothing_of_itself_is_the_slowest_one(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise RuntimeError("no Metal device")

    monkeypatch.setattr(mx, "device_info", fail)
    device_limits.cache_clear()
    assert device_limits(True).seconds == SLOWEST_CHIP.seconds
    device_limits.cache_clear()
    assert "unknown" in this_machine().device
