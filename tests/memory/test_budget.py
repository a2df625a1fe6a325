"""What a machine has for a run, and MLX's limits set and put back."""

from __future__ import annotations

from mlx_video.memory.budget import (
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
    budget = find_budget(MAC)
    assert budget.nbytes == 8_000_000_000  # 0.85 · 10 GB - 0.5 GB
    assert budget.reason == "85% of 10.0 GB recommended for the GPU, less 0.5 GB to run"


def test_other_programs_leave_less():
    budget = find_budget(Machine(16_000_000_000, 10_000_000_000, available_bytes=4_000_000_000))
    assert budget.nbytes == 2_900_000_000
    assert "4.0 GB available now" in budget.reason


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
