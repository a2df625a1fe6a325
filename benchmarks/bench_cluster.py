"""Two processes that share a video's passes, or a list's videos: a core each, against one on one core.

    python -m benchmarks.bench_cluster

A synthetic Wan2.2-T2V-A14B of the 1.3B's width is converted in float32. Videos of one frame are made by the
generate command: by one process, by two with --parallel guidance, and lists by one and by two with --parallel
data. Each is made in a shorter and a longer run, and the difference is told: it leaves out imports, meeting
and loading. Ways take turns; medians of `--turns`. Latents of all ways must be equal, bit for bit.

The wall clock is that of a machine on which nothing else runs. The most that one of the processes computes is
told besides: it leaves out the times in which others run, and in which one waits for the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from benchmarks.bench_relay import ROOT, convert, write_source

OPTIONS = (
    "--prompt=a cat", "--num-frames=1", "--guide-scale=3", "--shift=5", "--no-device-check",
    "--no-prompt-cache", "--output-type=latent", "--quiet",
)  # fmt: skip
WANTED = 1.8


@dataclass(frozen=True)
class Way:
    """A way to make videos.

    Attributes:
        name: for the report.
        processes: how many.
        short, long: options of the shorter and of the longer run.
    """

    name: str
    processes: int
    short: tuple[str, ...]
    long: tuple[str, ...]


STEPS = ("--seed=1", "--steps=2"), ("--seed=1", "--steps=6")
LISTS = ("--seeds=1,2", "--steps=2"), ("--seeds=1,2,3,4,5,6", "--steps=2")
WAYS = (
    Way("a video, one process", 1, *STEPS),
    Way("a video, guidance", 2, *((*words, "--parallel=guidance") for words in STEPS)),
    Way("a list, one process", 1, *LISTS),
    Way("a list, data", 2, *((*words, "--parallel=data") for words in LISTS)),
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-layers", type=int, default=2, help="blocks of 1.3B width (default: 2)")
    parser.add_argument("--width", type=int, default=416, help="of the videos (default: 416)")
    parser.add_argument("--height", type=int, default=240, help="of the videos (default: 240)")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each way (default: 3)")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main() -> int:
    args = build_parser().parse_args()
    if args.child:
        return run_here(args.child)
    with tempfile.TemporaryDirectory(prefix="bench_cluster_") as folder:
        source, model = Path(folder) / "source", Path(folder) / "model"
        write_source(source, args.num_layers)
        convert(source, model)
        own = (f"--model-dir={model}", f"--width={args.width}", f"--height={args.height}", *OPTIONS)
        turns = [{way.name: measure(way, own, Path(folder)) for way in WAYS} for _ in range(args.turns)]
    for alone, together in (WAYS[:2], WAYS[2:]):
        report(alone.name, together.name, turns)
    return 0


def measure(way: Way, words: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds of the longer run without those of the shorter one."""
    short, long = (run(way.processes, [*words, *own], folder / "out") for own in (way.short, way.long))
    return {name: long[name] - short[name] for name in short}


def run(processes: int, words: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds of the slowest process, by the clock and of its computing; the latents are compared."""
    command = [sys.executable, "-m", "benchmarks.bench_cluster", "--child", *words]
    with ExitStack() as stack:
        hostfile = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ring.json"
        sockets = [stack.enter_context(socket()) for _ in range(processes)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        hostfile.write_text(json.dumps([[f"127.0.0.1:{one.getsockname()[1]}"] for one in sockets]))
        for one in sockets:
            one.close()
        folder.mkdir(exist_ok=True)
        started = [
            subprocess.Popen(
                [*command, f"--output-path={folder / 'v.safetensors'}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **_launched(rank, processes, hostfile)},
            )
            for rank in range(processes)
        ]
        told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process failed")
    _compare(folder)
    return {name: max(each[name] for each in told) for name in told[0]}


def _launched(rank: int, processes: int, hostfile: Path) -> dict[str, str]:
    launched = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)} if processes > 1 else {}
    return {**launched, "BENCH_CORE": str(rank), "OPENBLAS_NUM_THREADS": "1"}


_SEEN: dict[str, Any] = {}


def _compare(folder: Path) -> None:
    """Hold the latents of every way to those of the first that made them."""
    import mlx.core as mx

    from mlx_video.latents.latents_file import load_latents

    for path in folder.glob("*.safetensors"):
        latents, settings = load_latents(path)
        key = f"{settings['seed']}, {settings['steps']}"
        if not mx.array_equal(_SEEN.setdefault(key, latents), latents):
            raise SystemExit(f"the latents of seed and steps {key} differ")
        path.unlink()


def run_here(words: Sequence[str]) -> int:
    """Run the generate command in this process, on a core of its own."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["BENCH_CORE"]) % len(cores)]})
    from mlx_video import generate_wan

    begun = time.perf_counter()
    code = generate_wan.main(words)
    figures: Mapping[str, float] = {
        "wall": time.perf_counter() - begun,
        "computing": time.process_time(),
    }
    print(json.dumps(figures))
    return code


def report(alone: str, together: str, turns: Sequence[Mapping[str, Mapping[str, float]]]) -> None:
    """Print both times and how many times as fast two are."""
    for name in ("wall", "computing"):
        one, two = ([turn[way][name] for turn in turns] for way in (alone, together))
        gain = statistics.median(one) / statistics.median(two)
        spread = ", ".join(f"{a / b:.2f}" for a, b in zip(one, two, strict=True))
        print(
            f"{together}, {name}: {statistics.median(one):.2f} s by one, {statistics.median(two):.2f} s by "
            f"two, {gain:.2f} times as fast (each turn: {spread}; at least {WANTED} wanted)"
        )


if __name__ == "__main__":
    sys.exit(main())
