"""A part of the campaign, and runs that meet each other; `python -m tests.hostile` runs all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlx_video import convert_checkpoint
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.hostile.campaign import fingerprint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EVERY = 37
"""One of so many cases runs here; which, follows from their number alone."""


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "MLX_VIDEO_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


def test_hostile_inputs_end_in_one_clean_message(tmp_path):
    # In a process of its own: it forks, and MLX has been at work in this one.
    command = [sys.executable, "-m", "tests.hostile", "--every", str(EVERY)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    *_, last = result.stdout.splitlines()
    assert int(last.split()[0]) >= 18
    assert " 0 not as they must be" in last


def test_first_runs_at_once_wait_for_each_other(tmp_path):
    options = ("--steps", "1", "--num-frames", "1", "--no-device-check", "--quiet")
    runs = [
        subprocess.Popen(
            [
                sys.executable, "-m", "mlx_video.generate_wan", *options,
                "--output-path", str(tmp_path / f"{number}.png"),
            ],
            cwd=ROOT, env=environment(tmp_path / "cache"), stderr=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_commands_killed_at_any_moment_leave_nothing_that_looks_whole(tmp_path):
    command = [sys.executable, "-m", "tests.hostile.kills", "--count", "2"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    lines = [line for line in result.stdout.splitlines() if line.endswith("not as they must be")]
    assert len(lines) == 6
    assert all("2 kills, 0 not" in line for line in lines)


def test_two_conversions_to_one_folder_leave_one_whole_model(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "checkpoint").path
    runs = [
        subprocess.Popen(
            [
                sys.executable, "-m", "mlx_video.convert_wan", "--checkpoint-dir", str(source),
                "--output-dir", str(tmp_path / "model"), "--dtype", "float32", "--quiet",
            ],
            cwd=ROOT, env=environment(tmp_path / "cache"), stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert 0 in [run.returncode for run in runs], errors
    for run, error in zip(runs, errors, strict=True):
        assert run.returncode == 0 or (run.returncode == 1 and error.count("error: ") == 1), error
    alone = convert_checkpoint(source, tmp_path / "alone", dtype="float32", progress=False)
    assert fingerprint(tmp_path / "model") == fingerprint(alone)
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"checkpoint", "model", "alone"}


def test_two_runs_with_one_output_leave_one_whole_video(tmp_path):
    runs = [
        subprocess.Popen(
            [
                sys.executable, "-m", "mlx_video.generate_wan", "--output-path", str(tmp_path / "cat.png"),
                "--steps", "2", "--num-frames", "1", "--seed", "1", "--no-device-check", "--quiet",
            ],
            cwd=ROOT, env=environment(tmp_path / "cache"), stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert 0 in [run.returncode for run in runs], errors
    for run, error in zip(runs, errors, strict=True):
        assert run.returncode == 0 or (run.returncode == 1 and error.count("error: ") == 1), error
    with Image.open(tmp_path / "cat.png") as picture:
        picture.load()
    assert {path.name for path in tmp_path.iterdir()} == {"cat.png", "cache"}
