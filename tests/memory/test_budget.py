"""What a machine has for a run, and MLX's limits set and put back."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_video.memory.budget import (
    Budget,
    Machine,
    find_budget,
    find_machine,
    memory_limits,
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


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """MLX's limits as a Mac has them, recorded instead of set."""
    values = {"memory": 10, "cache": 20, "wired": 0}

    def setter(kind: str):
        def set_limit(nbytes: int) -> int:
            before, values[kind] = values[kind], nbytes
            return before

        return set_limit

    for kind in values:
        monkeypatch.setattr(mx, f"set_{kind}_limit", setter(kind))
    return values


def test_limits_hold_inside_and_come_back(limits: dict[str, int]):
    machine = Machine(16, 1000, on_gpu=True, can_wire=True)
    with memory_limits(machine, Budget(500, ""), peak_bytes=400, cache_bytes=30):
        assert limits == {"memory": 500, "cache": 30, "wired": 400}
    assert limits == {"memory": 10, "cache": 20, "wired": 0}


def test_no_more_is_wired_than_the_machine_recommends(limits: dict[str, int]):
    machine = Machine(16, 1000, on_gpu=True, can_wire=True)
    with memory_limits(machine, Budget(2000, ""), peak_bytes=2000, cache_bytes=30):
        assert limits["wired"] == 900


def test_limits_come_back_after_an_error(limits: dict[str, int]):
    machine = Machine(16, 1000, on_gpu=True, can_wire=True)
    with pytest.raises(RuntimeError), memory_limits(machine, Budget(500, ""), 400, 30):
        raise RuntimeError
    assert limits == {"memory": 10, "cache": 20, "wired": 0}


def test_without_a_gpu_only_the_memory_limit_is_set(limits: dict[str, int]):
    with memory_limits(Machine(16, 1000), Budget(500, ""), 400, 30):
        assert limits == {"memory": 500, "cache": 20, "wired": 0}


def test_mlx_takes_the_limit_and_gives_it_back():
    before = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(before)
    with memory_limits(Machine(16, 1000), Budget(123_456_789, ""), 400, 30):
        inside = mx.set_memory_limit(123_456_789)
    after = mx.set_memory_limit(before)
    assert (inside, after) == (123_456_789, before)
