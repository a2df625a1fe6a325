"""Reports: what they come to, as JSON, as a table, and remembered."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.device.check import Result
from mlx_video.device.operations import BFLOAT16_PRODUCT, FLOAT16_PRODUCT
from mlx_video.device.report import (
    Machine,
    Memory,
    Report,
    from_json,
    rate_notices,
    summary_lines,
    table_lines,
    this_machine,
    to_json,
    write_report,
)
from mlx_video.errors import MediaError
from mlx_video.models.dispatch import CPU_LIMITS, Limits

MACHINE = Machine("0.31.2", "0.1.0", "gpu: Apple M5 Pro", "applegpu_g17s", "macOS-26.2-arm64")
RIGHT = Result("attention among tokens", "2×3", 1e-7, 1e-4, 0.25, "right", flops_per_second=4e12)
AVOIDED = Result(
    "softmax", "4×5", math.inf, 1e-4, 0.5, "avoided", "attention is written out", {"fused_attention": False}
)
WRONG = Result("layer norm", "6×7", 1.0, 1e-4, 0.5, "wrong", "RuntimeError: lost\nmore of it")
REPORT = Report(MACHINE, (RIGHT, AVOIDED, WRONG))


def test_safe_limits_avoid_what_is_faulty_and_count_on_the_measured_rate():
    assert REPORT.safe_limits(Limits(1.0, 1e12)) == Limits(1.0, 4e12, fused_attention=False)
    assert replace(REPORT, shortened=0.25).safe_limits(Limits(2.0, 1e12)).seconds == 0.5
    assert Report(MACHINE, (RIGHT,)).safe_limits(CPU_LIMITS) == CPU_LIMITS


def test_json_holds_everything_and_gives_the_report_back(tmp_path: Path):
    write_report(REPORT, tmp_path / "new" / "check.json")
    values = json.loads((tmp_path / "new" / "check.json").read_text(encoding="utf-8"))
    assert values["machine"]["device"] == "gpu: Apple M5 Pro"
    assert values["attention_flops_per_second"] == 4e12
    assert values["operations"][0] == {
        "name": "attention among tokens", "size": "2×3", "error": 1e-7, "bound": 1e-4, "seconds": 0.25,
        "verdict": "right", "note": "", "changes": {}, "flops_per_second": 4e12,
    }  # fmt: skip
    assert values["operations"][1]["error"] is None
    assert any("32,768 rows" in fault["text"] for fault in values["known_faults"])
    assert from_json(values) == REPORT


def test_a_folder_that_takes_no_file_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError):
        write_report(REPORT, tmp_path / "file" / "check.json")


def test_a_report_is_remembered_for_its_machine_alone(tmp_path: Path):
    memory = Memory(tmp_path / "device")
    assert memory.recall(MACHINE) is None
    memory.remember(REPORT)
    assert memory.recall(MACHINE) == REPORT
    for change in ("mlx", "mlx_video", "device", "architecture", "system"):
        assert memory.recall(replace(MACHINE, **{change: "another"})) is None


@pytest.mark.parametrize("name", ["operations", "machine", "shortened"])
def test_a_damaged_report_is_not_believed(tmp_path: Path, name: str):
    memory = Memory(tmp_path)
    path = memory.path_of(MACHINE)
    for text in ("", "[]", "{", json.dumps(to_json(REPORT) | {name: 3.5 if name != "shortened" else "x"})):
        path.write_text(text)
        assert memory.recall(MACHINE) is None
    values = to_json(REPORT)
    values["operations"][1]["changes"] = {"no_such_limit": 1}
    path.write_text(json.dumps(values))
    assert memory.recall(MACHINE) is None


def test_this_machine_is_described_by_what_decides_its_results():
    machine = this_machine()
    assert machine.mlx == mx.__version__
    assert machine.device.startswith(mx.default_device().type.name)
    assert machine.mlx in machine.describe()


def test_the_table_shows_error_time_verdict_and_the_way_taken():
    heading, *lines = table_lines(REPORT.results)
    assert heading.split() == ["operation", "size", "error", "expected", "ms", "verdict"]
    assert lines[0].split() == ["attention", "among", "tokens", "2×3", "1.0e-07", "1e-04", "250.0", "right"]
    assert lines[1].split()[-4:] == ["inf", "1e-04", "500.0", "avoided"]
    assert lines[2] == "  attention is written out"
    assert lines[4] == "  RuntimeError: lost"
    assert heading.index("verdict") == lines[0].index("right") == lines[1].index("avoided")


def test_the_summary_counts_verdicts_and_names_known_faults():
    lines = summary_lines(REPORT)
    assert lines[0] == "1 right, 1 avoided, 1 wrong"
    assert lines[1] == "attention: 4 TFLOPS"
    assert any("32,768 rows" in line and "pulls 3631" in line for line in lines[3:])
    on_cpu = replace(REPORT, machine=replace(MACHINE, device="cpu: x", architecture="x86_64"))
    assert summary_lines(on_cpu)[2:] == ["This is a CPU: what goes wrong on GPUs alone was not tested."]


# What rates tell


def product(name: str, tflops: float) -> Result:
    return Result(name, "1000×1000×1000", 1e-3, 2e-2, 2e9 / (tflops * 1e12), "right")


def rates(device: str, architecture: str, bfloat16: float, float16: float) -> list[str]:
    machine = replace(MACHINE, device=device, architecture=architecture)
    results = (product(BFLOAT16_PRODUCT, bfloat16), product(FLOAT16_PRODUCT, float16))
    return rate_notices(Report(machine, results))


def test_an_m5_whose_tensor_units_are_missing_is_told():
    (notice,) = rates("gpu: Apple M5 Max", "applegpu_g17s", 10, 10)
    assert "reach 10 TFLOPS, less than half of this chip's 34.8" in notice
    assert "macOS 26.2" in notice
    assert rates("gpu: Apple M5 Max", "applegpu_g17s", 18, 18) == []
    assert rates("gpu: Apple M4 Max", "applegpu_g16s", 2, 2) == []


def test_a_clearly_faster_float16_is_told():
    (notice,) = rates("gpu: Apple M1 Max", "applegpu_g13s", 4, 6)
    assert notice.startswith("Products in float16 are 1.5 times as fast as in bfloat16")
    assert "--dtype float16" in notice
    assert rates("gpu: Apple M1 Max", "applegpu_g13s", 4, 4.5) == []
    assert rates("cpu: x86_64", "x86_64", 4, 6) == []
    assert rate_notices(Report(MACHINE, ())) == []


def test_a_faster_way_is_taken_and_outlives_the_file(tmp_path: Path):
    results = tuple(
        replace(RIGHT, name=name, flops_per_second=None, changes={"unpacked": name})
        for name in ("4 bits by 64", "8 bits by 32")
    )
    memory = Memory(tmp_path)
    memory.remember(Report(MACHINE, results))
    limits = memory.recall(MACHINE).safe_limits(Limits())
    assert limits == Limits(unpacked=frozenset({"4 bits by 64", "8 bits by 32"}))
