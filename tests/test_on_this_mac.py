"""The command that measures a Mac: every part measures, and one that fails loses no other."""

from __future__ import annotations

import json

import pytest

from benchmarks.on_this_mac import __main__ as command
from benchmarks.on_this_mac.parts import PARTS, SCALES
from benchmarks.on_this_mac.report import HEADER, describe, estimate_minutes, markdown_row


def way(text, ms, *, error=1e-3, tflops=None, failure=""):
    return {"way": text, "ms": ms, "error": error, "tflops": tflops, "failure": failure}


def operations(*ways):
    return {"seconds": 1.0, "figures": {"product, bfloat16": {"size": "8×8×8", "ways": list(ways)}}}


def row_of(part, name="operations"):
    report = {"device": "mlx on a Mac", "commit": "abc", "parts": {name: part}}
    header, _, row = markdown_row(report).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(HEADER)
    return dict(zip(HEADER, cells, strict=True))


@pytest.mark.parametrize("name", [name for name in PARTS if name != "VAEs"])
def test_every_part_measures_and_describes_itself(name):
    figures = json.loads(json.dumps(PARTS[name](SCALES["small"])))
    assert figures
    if name == "operations":
        check_operations(figures)
    lines = list(describe(name, {"seconds": 1.0, "figures": figures}))
    assert len(lines) == len(figures) + 1
    assert len(row_of({"seconds": 1.0, "figures": figures}, name)) == len(HEADER)


def check_operations(figures):
    """Kernels need a GPU, which is said; no other way is wrong."""
    ways = [way for one in figures.values() for way in one["ways"]]
    failures = {way["failure"] for way in ways if way["failure"]}
    assert failures == {"RuntimeError: [metal_kernel] No Metal back-end."}
    assert all(way["error"] < 0.1 for way in ways if not way["failure"])


def test_the_row_names_the_fastest_right_way_and_what_is_wrong():
    usual = way("as usual", 2.0, tflops=3.0)
    fast, faster = way("one way", 1.5), way("another way", 1.0)
    garbage, failed = way("garbage", 0.1, error=1.0), way("failed", 0.1, failure="RuntimeError: no")
    row = row_of(operations(usual, fast, faster, garbage, failed))
    assert row["faster ways"] == "product, bfloat16, another way: 2×"
    assert (row["products TFLOPS"], row["wrong"]) == ("3", "–")
    assert row_of(operations(way("as usual", 1.0, error=None)))["wrong"] == "product, bfloat16"


def test_a_part_that_fails_loses_no_other(monkeypatch, tmp_path, capsys):
    def run_part(name, scale):
        if name == "plans":
            return {"seconds": 1.0, "failure": "DeviceError: something"}
        return {"seconds": 1.0, "figures": {}}

    output = tmp_path / "mac.json"
    monkeypatch.setattr(command, "run_part", run_part)
    monkeypatch.setattr("sys.argv", ["on_this_mac", "--output", str(output), "--parts", "plans", "VAEs"])
    assert command.main() == 1
    assert "failed: DeviceError: something" in capsys.readouterr().out
    assert list(json.loads(output.read_text())["parts"]) == ["plans", "VAEs"]


def test_a_failing_process_is_described_by_its_last_line():
    part = command.run_part("no such part", "small")
    assert "invalid choice" in part["failure"]


def test_the_transformers_time_follows_from_the_rate_of_products():
    one, twice = ({"operations": operations(way("as usual", 1.0, tflops=rate))} for rate in (1.0, 2.0))
    full = SCALES["full"]
    assert estimate_minutes("transformer", full, one) == 2 * estimate_minutes("transformer", full, twice) > 0
    assert estimate_minutes("VAEs", full, one) is None
    assert estimate_minutes("transformer", full, {}) is None
