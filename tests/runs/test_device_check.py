"""The device is checked once per machine and MLX, and a run keeps to what was found."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import convert_checkpoint
from mlx_video.device.check import Result
from mlx_video.device.operations import Fallback, Operation
from mlx_video.device.report import Memory, Report
from mlx_video.device.trials import Trial
from mlx_video.errors import DeviceError, MemoryBudgetError
from mlx_video.events import FileWritten, Notice, OperationsChecked, TextResult
from mlx_video.loading.components import open_model
from mlx_video.models.dispatch import Limits, current_limits, use_limits
from mlx_video.request import GenerateRequest
from mlx_video.runs import device_check
from mlx_video.runs.device_check import check_device, choose_sizes, held_to_limits, recall_or_check
from mlx_video.runs.generate import generate, prepare_run
from mlx_video.runs.run import Run
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

TIMEOUT = "[METAL] Command buffer execution failed: (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    return convert_checkpoint(
        write_tiny_checkpoint(root / "original").path, root / "converted", dtype="float32"
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("MLX_VIDEO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Table:
    """Made-up operations in place of the table's, counted when they are tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trials = 0
        self._monkeypatch = monkeypatch
        self.put()

    def put(self, *, is_faulty: bool = False, way: Fallback | None = None) -> None:
        def build() -> Trial:
            self.trials += 1

            def run() -> mx.array:
                is_avoided = way and all(
                    getattr(current_limits(), name) == value for name, value in way.changes.items()
                )
                return mx.ones((2, 2)) * (math.nan if is_faulty and not is_avoided else 1)

            return Trial(run, np.arange(2), lambda: np.ones((2, 2)), flops=1e6)

        ways = (way,) if way else ()
        rated = Operation("attention", build, (), (), (), ways, gives_rate=True)
        slow = Operation("something slow", build, (), (), (), is_quick=False)
        self._monkeypatch.setattr(device_check, "OPERATIONS", (rated, slow))


@pytest.fixture
def table(monkeypatch) -> Table:
    return Table(monkeypatch)


WRITTEN_OUT = Fallback("attention is written out", {"fused_attention": False})


def prepare(folder: Path, **options) -> Run:
    size = {"width": 32, "height": 32, "num_frames": 1, "steps": 1, "seed": 1}
    return prepare_run(GenerateRequest("a cat", **size, **options), *open_model(folder))


# Before a run


def test_the_first_run_checks_and_later_ones_remember(folder: Path, table: Table, cache: Path):
    assert prepare(folder).limits == current_limits()
    assert table.trials == 1  # the quick ones alone
    prepare(folder)
    assert table.trials == 1
    assert len(list((cache / "device").glob("*.json"))) == 1


@pytest.mark.parametrize("change", [{"mlx": "9.0.0"}, {"device": "gpu: Apple M9"}, {"system": "macOS-99"}])
def test_another_mlx_device_or_system_is_checked_anew(table: Table, monkeypatch, change):
    recall_or_check()
    other = replace(device_check.this_machine(), **change)
    monkeypatch.setattr(device_check, "this_machine", lambda: other)
    recall_or_check()
    assert table.trials == 2


def test_a_faulty_operation_is_avoided_and_every_run_says_so(folder: Path, table: Table):
    table.put(is_faulty=True, way=WRITTEN_OUT)
    for _ in range(2):
        run = prepare(folder)
        assert run.limits == replace(current_limits(), fused_attention=False)
        (text,) = [notice.text for notice in run.plan.notices if "gives wrong results" in notice.text]
        assert text.startswith("attention gives wrong results with mlx ")
        assert text.endswith(": attention is written out.")
    assert table.trials == 1


def test_the_stages_of_a_run_keep_to_its_limits(folder: Path, table: Table):
    table.put(is_faulty=True, way=WRITTEN_OUT)
    before, seen = current_limits(), set()

    class Sink:
        def write(self, frames: np.ndarray) -> None:
            seen.add(current_limits().fused_attention)

    events = list(generate(prepare(folder), extra_sinks=[Sink()]))
    assert any(isinstance(event, Notice) and "gives wrong results" in event.text for event in events)
    assert seen == {False}
    assert current_limits() is before


def test_a_fault_without_another_way_ends_the_run_and_is_not_remembered(folder: Path, table: Table):
    table.put(is_faulty=True)
    for trials in (1, 2):
        with pytest.raises(DeviceError) as caught:
            prepare(folder)
        assert table.trials == trials
    message = str(caught.value)
    assert message.startswith("attention (): error inf where rounding explains 1e-04. mlx ")
    assert "pip install -U mlx" in message
    assert "--no-device-check" in message


def test_a_check_by_a_shorter_table_is_made_anew_and_keeps_what_was_shortened(
    folder: Path, table: Table, cache: Path
):
    run = prepare(folder, device_check=False)
    with pytest.raises(DeviceError), held_to_limits(run):
        raise RuntimeError(TIMEOUT)
    assert table.trials == 0
    assert prepare(folder).limits.seconds == 0.5 * current_limits().seconds
    assert table.trials == 1
    prepare(folder)
    assert table.trials == 1


def test_the_check_can_be_left_out(folder: Path, table: Table):
    table.put(is_faulty=True)
    assert prepare(folder, device_check=False).limits == current_limits()
    assert table.trials == 0


def test_kernels_that_the_check_chose_can_be_left_out(folder: Path, monkeypatch):
    machine = device_check.this_machine()
    result = Result("attention", "", 0.0, 1e-4, 0.1, "right", changes={"kernels": "layer_norm"})
    monkeypatch.setattr(device_check, "recall_or_check", lambda: Report(machine, (result,)))
    assert prepare(folder).limits.kernels == {"layer_norm"}
    assert prepare(folder, kernels=False).limits == current_limits()


def test_a_cache_that_takes_no_files_costs_a_check_and_no_more(folder: Path, table: Table, cache: Path):
    cache.write_text("a file in its place")
    prepare(folder, prompt_cache=False)
    prepare(folder, prompt_cache=False)
    assert table.trials == 2


def test_the_measured_rate_decides_the_length_of_chunks(folder: Path, table: Table):
    with use_limits(Limits(1.0, 1e12)):
        run = prepare(folder)
        (result,) = recall_or_check().results
    assert run.limits == Limits(1.0, result.flops_per_second)


# What the GPU gives up on


def test_work_that_took_too_long_is_shorter_in_the_next_run(folder: Path, table: Table):
    run = prepare(folder)
    for shortened in (0.5, 0.25):
        with pytest.raises(DeviceError, match="half the length.*--resume"), held_to_limits(run):
            raise RuntimeError(TIMEOUT)
        run = prepare(folder)
        assert run.limits.seconds == shortened * current_limits().seconds
        assert any(
            f"chunks have {shortened} times the usual length" in notice.text for notice in run.plan.notices
        )
    assert table.trials == 1


def test_a_machine_that_was_never_checked_is_shortened_too(folder: Path, table: Table, cache: Path):
    run = prepare(folder, device_check=False)
    with pytest.raises(DeviceError), held_to_limits(run):
        raise RuntimeError(TIMEOUT)
    assert Memory(cache / "device").recall(device_check.this_machine()).shortened == 0.5


def test_memory_that_ran_out_names_the_cure_and_cuts_nothing(folder: Path, table: Table):
    run = prepare(folder)
    with pytest.raises(MemoryBudgetError, match="--memory-limit"), held_to_limits(run):
        raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory "
                           "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory).")  # fmt: skip
    assert recall_or_check().shortened == 1


def test_other_errors_are_left_alone(folder: Path, table: Table, cache: Path):
    run = prepare(folder)
    with pytest.raises(RuntimeError, match="something else"), held_to_limits(run):
        raise RuntimeError("something else")
    assert recall_or_check().shortened == 1


# In full


def test_the_whole_check_shows_a_table_and_writes_json(table: Table, tmp_path: Path):
    path = tmp_path / "check.json"
    notice, *checked, result, written = check_device(is_quick=False, is_full=False, path=path)
    assert isinstance(notice, Notice)
    assert checked == [OperationsChecked(1, 2), OperationsChecked(2, 2)]
    assert isinstance(result, TextResult)
    assert "something slow" in result.text
    assert written == FileWritten(path)
    assert path.is_file()


def test_the_quick_check_tries_the_quick_operations_alone(table: Table):
    *_, result = check_device(is_quick=True, is_full=False, path=None)
    assert "something slow" not in result.text


def test_a_wrong_operation_ends_the_check_after_its_table(table: Table, tmp_path: Path):
    table.put(is_faulty=True)
    events = check_device(is_quick=False, is_full=False, path=tmp_path / "check.json")
    shown = [next(events) for _ in range(5)]
    with pytest.raises(DeviceError, match=r"attention \(\) and 1 more: error inf"):
        next(events)
    assert "2 wrong" in next(event.text for event in shown if isinstance(event, TextResult))
    assert isinstance(shown[-1], FileWritten)


def test_a_gpu_gets_real_sizes_and_a_cpu_small_ones(monkeypatch):
    def sizes() -> list[str]:
        return [
            choose_sizes(is_quick=is_quick, is_full=is_full)
            for is_quick, is_full in [(True, False), (False, False), (False, True)]
        ]

    monkeypatch.setattr(device_check, "on_gpu", lambda: False)
    assert sizes() == ["small", "small", "full"]
    monkeypatch.setattr(device_check, "on_gpu", lambda: True)
    assert sizes() == ["medium", "full", "full"]
