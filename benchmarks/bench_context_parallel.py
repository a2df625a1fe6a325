"""A forward whose tokens two processes share, a core each, against one process on one core.

Both processes hold the same network. In turns the first makes the forward alone, while the other sleeps, and
both make it together over the loopback. Before, the velocities are compared. The time is the longer of both
processes'. On Linux that of the busiest threads, which compute, is told besides: it leaves out the times in
which others run, and in which one process waits for the other.

    python -m benchmarks.bench_context_parallel --grid 1 30 52 --num-layers 2
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket

import mlx.core as mx
import numpy as np

from benchmarks.bench_transformer import add_network_options, build_network
from benchmarks.forward import STEP
from benchmarks.timing import TABLE_HEADER, Timing, format_row
from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.context_parallel import ContextParallel
from mlx_video.models.block_context import Pass

WANTED = 1.6
LARGEST_ERROR = 1e-5
RANKS = 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_network_options(parser)
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds, default %(default)s")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    return parser


def serve(args: argparse.Namespace) -> None:
    """One of the processes: makes forwards as its stdin says, and tells how long each took."""
    args.dtype, args.bits = "float32", None
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[args.rank]})
    group = join_cluster().group
    assert group is not None
    collectives = Collectives(group)
    network = build_network(args)
    frames, rows, columns = args.grid
    mx.random.seed(1)
    latents = mx.random.normal((network.config.in_dim, frames, 2 * rows, 2 * columns))
    alone = Pass(network.project_text(mx.random.normal((60, network.config.text_dim))))
    works = {"alone": alone, "together": ContextParallel(collectives).share(alone)}
    velocities: dict[str, np.ndarray] = {}
    for line in sys.stdin:
        name = line.strip()
        before = collectives.traffic.nbytes
        mx.reset_peak_memory()
        began, worked = time.perf_counter(), count_thread_seconds()
        (velocity,) = network.predict(latents, STEP, [works[name]])
        mx.eval(velocity)
        found = {
            "seconds": time.perf_counter() - began,
            "computing": max(now - worked.get(name, 0) for name, now in count_thread_seconds().items()),
            "peak": mx.get_peak_memory(),
            "sent": collectives.traffic.nbytes - before,
        }
        velocities[name] = np.array(velocity)
        if len(velocities) == len(works):
            difference = np.abs(velocities["together"] - velocities["alone"]).max()
            found["error"] = float(difference / np.abs(velocities["alone"]).max())
        print(json.dumps(found), flush=True)


def count_thread_seconds() -> dict[str, float]:
    """Name of each thread → the time that it has computed; that of the process where no thread tells."""
    try:
        names = os.listdir("/proc/self/task")
    except OSError:
        return {"": time.process_time()}
    # Nanoseconds.
    return {
        name: int(Path(f"/proc/self/task/{name}/schedstat").read_text().split()[0]) / 1e9 for name in names
    }


@contextmanager
def started() -> Iterator[Callable[[str, int], list[dict[str, float]]]]:
    """Both processes; a call has the first `count` of them make a forward, and gives what they tell."""
    with ExitStack() as stack:
        hostfile = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ring.json"
        hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports()]))
        processes = []
        for rank in range(RANKS):
            variables = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile), "OPENBLAS_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "benchmarks.bench_context_parallel", *sys.argv[1:]]
            process = subprocess.Popen(
                [*command, "--rank", str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **variables},
            )
            processes.append(stack.enter_context(process))

        def make(name: str, count: int) -> list[dict[str, float]]:
            asked = processes[:count]
            for process in asked:
                assert process.stdin is not None
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
            return [json.loads(process.stdout.readline()) for process in asked if process.stdout]

        yield make
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()


def free_ports() -> list[int]:
    """Ports of the loopback that nothing listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket()) for _ in range(RANKS)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def main() -> int:
    args = build_parser().parse_args()
    if args.rank is not None:
        serve(args)
        return 0
    alone: list[dict[str, float]] = []
    together: list[list[dict[str, float]]] = []
    with started() as make:
        make("alone", RANKS)
        error = max(one["error"] for one in make("together", RANKS))
        if error > LARGEST_ERROR:
            raise SystemExit(f"the velocities differ by {error:.2g}")
        for _ in range(args.repeats):
            alone += make("alone", 1)
            together.append(make("together", RANKS))
    gains = {
        name: statistics.median(
            one[name] / max(each[name] for each in both) for one, both in zip(alone, together, strict=True)
        )
        for name in ("seconds", "computing")
    }
    print(f"together {gains['seconds']:.2f} times as fast; by the time of computing {gains['computing']:.2f}")
    print(f"{WANTED} wanted: {'kept' if gains['seconds'] >= WANTED else 'MISSED'}")
    print(f"largest difference {error:.2g}; {together[0][0]['sent'] / 1e6:.1f} MB sent by each")
    print(TABLE_HEADER)
    size = f"{args.grid[0] * args.grid[1] * args.grid[2]} tokens"
    floor = Timing(tuple(one["seconds"] for one in alone), int(alone[0]["peak"]))
    shared = Timing(
        tuple(max(one["seconds"] for one in both) for both in together), int(together[0][0]["peak"])
    )
    for label, timing in {"one process": floor, "tokens shared by two": shared}.items():
        print(format_row(label, f"{args.num_layers} blocks of width {args.dim}", size, timing, floor))
    return 0 if gains["seconds"] >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
