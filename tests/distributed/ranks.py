"""Starts real processes that reach each other over the loopback ring, as `mlx.launch` does, and ends them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SECONDS = 60.0
"""After which processes are killed, in a test that says nothing else."""


@dataclass(frozen=True)
class Ended:
    """What became of one process.

    Attributes:
        code: its exit code; -9 for a killed one.
        out, err: what it wrote.
    """

    code: int
    out: str
    err: str


@dataclass
class Ranks:
    """Processes that run."""

    processes: list[subprocess.Popen[bytes]]
    _written: list[tuple[IO[bytes], IO[bytes]]]

    def __getitem__(self, rank: int) -> subprocess.Popen[bytes]:
        return self.processes[rank]

    def told(self, rank: int) -> str:
        """What a process has written to stderr by now."""
        return Path(self._written[rank][1].name).read_text(errors="replace")

    def wait_until_told(self, rank: int, text: str, seconds: float = SECONDS) -> None:
        """Wait until a process has written a text to stderr."""
        end = time.monotonic() + seconds
        while text not in self.told(rank):
            assert self[rank].poll() is None, self.told(rank)
            assert time.monotonic() < end, self.told(rank)
            time.sleep(0.01)

    def wait(self, seconds: float = SECONDS) -> list[Ended]:
        """Wait for all to end; those that do not in time are killed, and have the code -9."""
        end = time.monotonic() + seconds
        for process in self.processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        texts = [[Path(each.name).read_text(errors="replace") for each in pair] for pair in self._written]
        return [Ended(each.returncode, *pair) for each, pair in zip(self.processes, texts, strict=True)]


@contextmanager
def started(
    count: int,
    words: Sequence[str] | Sequence[Sequence[str]],
    variables: Mapping[str, str] | None = None,
    prefix: Sequence[Sequence[str]] | None = None,
) -> Iterator[Ranks]:
    """Python processes of ranks 0 to `count` - 1; whatever still runs at the end of the block is killed.

    Args:
        count: of processes.
        words: behind `python`, for all of them or for each.
        variables: of the environment, besides those of this process.
        prefix: words before `python`, for each process, such as `taskset`'s.
    """
    each = [[*words]] * count if isinstance(words[0], str) else [[*own] for own in words]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlx-video-ranks-")))
        hostfile = folder / "ring.json"
        hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
        processes: list[subprocess.Popen[bytes]] = []
        written = []
        try:
            for rank, own in enumerate(each):
                out, err = (stack.enter_context(open(folder / f"{rank}.{name}", "wb")) for name in ("o", "e"))
                written.append((out, err))
                launched = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)} if count > 1 else {}
                command = [*(prefix[rank] if prefix else ()), sys.executable, *own]
                environment = {**os.environ, **launched, **(variables or {})}
                processes.append(subprocess.Popen(command, stdout=out, stderr=err, env=environment))
            yield Ranks(processes, written)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                process.wait()


def run_ranks(
    count: int, words: Sequence[str] | Sequence[Sequence[str]], seconds: float = SECONDS, **options
) -> list[Ended]:
    """Start processes and wait for them; options as for :func:`started`."""
    with started(count, words, **options) as ranks:
        return ranks.wait(seconds)


def run_code(count: int, code: str, *words: str, seconds: float = SECONDS, **options) -> list[str]:
    """What processes print that all run some code; each must end well."""
    ended = run_ranks(count, ["-c", code, *words], seconds, **options)
    for one in ended:
        assert one.code == 0, one.err
    return [one.out for one in ended]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nothing listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
