"""The command that checks the device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import check_device, generate_wan
from mlx_video.device.operations import OPERATIONS
from mlx_video.runs import device_check


def test_it_prints_a_table_and_writes_json(tmp_path: Path, capsys):
    path = tmp_path / "check.json"
    assert check_device.main(["--quick", "--json", str(path)]) == 0
    captured = capsys.readouterr()
    heading, *lines = captured.out.splitlines()
    assert heading.split()[:2] == ["operation", "size"]
    quick = [operation.name for operation in OPERATIONS if operation.is_quick]
    assert [line[: len(name)] for name, line in zip(quick, lines, strict=False)] == quick
    assert lines[-1] == str(path)
    assert mx.__version__ in captured.err
    values = json.loads(path.read_text(encoding="utf-8"))
    assert [entry["name"] for entry in values["operations"]] == quick
    assert {entry["verdict"] for entry in values["operations"]} == {"right"}


def test_a_wrong_operation_is_shown_and_ends_with_one(monkeypatch, capsys):
    softmax = next(operation for operation in OPERATIONS if operation.name == "softmax")

    def build(*size: int):
        trial = softmax.build(*size)
        return replace(trial, run=lambda: -trial.run())

    monkeypatch.setattr(device_check, "OPERATIONS", (replace(softmax, build=build),))
    assert check_device.main([]) == 1
    captured = capsys.readouterr()
    assert "wrong" in captured.out
    assert "error: softmax (64×500): error 2.0e+00 where rounding explains 1e-04." in captured.err


def test_a_json_file_that_cannot_be_written_is_an_error(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    assert check_device.main(["--quick", "--json", str(tmp_path / "file" / "check.json")]) == 1
    assert str(tmp_path / "file" / "check.json") in capsys.readouterr().err


def test_quick_and_full_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as caught:
        check_device.main(["--quick", "--full"])
    assert caught.value.code == 2


@pytest.mark.parametrize(("options", "is_checked"), [([], True), (["--no-device-check"], False)])
def test_a_run_is_checked_unless_the_user_declines(options: list[str], is_checked: bool):
    args = generate_wan.build_parser().parse_args(["--prompt", "a cat", *options])
    assert generate_wan.build_request(args).device_check is is_checked
