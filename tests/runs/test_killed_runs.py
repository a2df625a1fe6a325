"""A process that is killed at any moment leaves the earlier video, no half file, and a run that can go on."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_video import Video, convert_checkpoint, generate_wan
from mlx_video.latents.run_state import load_state
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.slow

KILLS = 20
STEPS = 6
OPTIONS = (
    f"--prompt=a.cat --width=16 --height=16 --num-frames=5 --steps={STEPS} --guide-scale=1 --seed=1 --quiet "
    "--no-device-check"
).split()

# Starts a command again and again without importing everything each time, and kills it after a while. What
# the children share was imported, but nothing was computed yet: MLX's own threads begin in each child.
NURSERY = """
import gc, json, os, signal, subprocess, sys, time
import ftfy, imageio_ffmpeg, PIL.Image, PIL.PngImagePlugin, tokenizers
import mlx_video.conditioning.text, mlx_video.runs.generate
from mlx_video import generate_wan

def begin(words):
    if sys.platform != "linux":  # a fork of a process that has loaded Metal cannot use it
        command = [sys.executable, "-m", "mlx_video.generate_wan", *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
    child = os.fork()
    if not child:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os._exit(generate_wan.main(words))
    return child

gc.freeze()  # every stage collects garbage; the imports need not be looked through each time
print("ready", flush=True)
for line in sys.stdin:
    words, seconds = json.loads(line)
    begun = time.perf_counter()
    child = begin(words)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - begun]), flush=True)
"""


class Nursery:
    """Runs the command in processes of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, words: list[str], kill_after: float | None = None) -> tuple[int, float]:
        """Exit code, -9 for a killed process, and seconds."""
        self.process.stdin.write(json.dumps([words, kill_after]) + "\n")
        self.process.stdin.flush()
        code, seconds = json.loads(self.process.stdout.readline())
        return code, seconds

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    gc.freeze()
    nursery = Nursery()
    yield nursery
    nursery.close()
    gc.unfreeze()


def check_what_is_left(output: Path, earlier: bytes) -> int:
    """Steps that can be gone on from, after making sure that nothing else lies there."""
    assert output.read_bytes() == earlier
    state = output.with_name(f"{output.name}.state.safetensors")
    others = [path for path in output.parent.iterdir() if path not in (output, state)]
    assert all(re.fullmatch(r"\.partial-[0-9a-f]{12}\..*", path.name) for path in others), others
    return load_state(state).next_step if state.exists() else 0


def test_a_run_killed_at_any_moment_can_be_resumed_to_the_identical_video(nursery: Nursery, tmp_path: Path):
    folder = convert_checkpoint(write_tiny_checkpoint(tmp_path / "o").path, tmp_path / "m", dtype="float32")
    output = tmp_path / "results" / "cat.mp4"
    command = [f"--model-dir={folder}", f"--output-path={output}", *OPTIONS]
    assert nursery.run(command)[0] == 0  # also fills the system's cache of files
    code, whole_seconds = nursery.run(command)
    expected, moments = output.read_bytes(), np.random.default_rng(0)
    earlier = Video(np.zeros((2, 16, 16, 3), np.uint8), 8.0).save(tmp_path / "earlier.mp4").read_bytes()
    assert code == 0
    kills, steps = 0, set()
    for _ in range(4 * KILLS):
        output.write_bytes(earlier)
        code, _ = nursery.run(command, kill_after=moments.uniform(0, whole_seconds))
        if code == -9 and output.read_bytes() != expected:
            kills += 1
            steps.add(check_what_is_left(output, earlier))
            assert generate_wan.main([*command, "--resume"]) == 0
        assert output.read_bytes() == expected
        for path in output.parent.glob("*.state.safetensors"):  # killed with the video in place already
            path.unlink()
        if kills == KILLS:
            break
    assert kills == KILLS
    assert len(steps) > 1, "every kill came before the first step"
