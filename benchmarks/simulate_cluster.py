"""What several Macs would gain, simulated from message counts and from public rates of chips and links.

First real processes make a forward of a tiny transformer together over the loopback, in every way, and the
messages and bytes that each sends are compared with the formulas of `mlx_video.planning.machine_gains`; a
difference ends the script. Then the formulas are put to the published models, and printed as tables in
Markdown. Nothing here was measured on a Mac.

    python -m benchmarks.simulate_cluster
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import socket

import mlx.core as mx
from mlx.utils import tree_flatten

from benchmarks.forward import STEP
from mlx_video.config import TransformerConfig
from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.context_parallel import ContextParallel
from mlx_video.distributed.sharded_blocks import load_sharded
from mlx_video.distributed.tensor_parallel import TensorParallel
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.models.block_context import Pass
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.models.dispatch import CHIPS
from mlx_video.models.forward import BlockSource
from mlx_video.models.transformer import WanTransformer
from mlx_video.planning.machine_gains import (
    Link,
    StepSize,
    Traffic,
    context_traffic,
    predict_gain,
    step_seconds,
    tensor_traffic,
    weights_traffic,
)
from mlx_video.runs.cluster.check import published_sizes
from mlx_video.weights.load import load_module

# Every tensor of a block takes a multiple of 256 bytes, so that nothing is padded.
TINY = TransformerConfig(64, 512, 4, 3, text_dim=64, text_len=8)
GRID = (2, 4, 6)
WIDE = 4
LINKS = {
    "Thunderbolt 5 with RDMA": Link(20e-6, 5e9),
    "10 Gbit Ethernet": Link(0.2e-3, 1.1e9),
}
"""Planning values: public figures of Apple's RDMA over Thunderbolt 5 lie between 3.5 and 9 GB/s."""
MACS = ("M4 Max", "M5 Max")
SIZES = ((832, 480, 81), (1280, 720, 81))
COUNTS = (2, 4)
WAYS = {2: ("guidance", "context", "tensor", "sharded"), 4: ("guidance", "context", "tensor")}


def tiny_step() -> StepSize:
    """A step of the counted forward, in float32."""
    dim, hidden, tokens = TINY.dim, TINY.ffn_dim, GRID[0] * GRID[1] * GRID[2]
    numbers = 8 * dim**2 + 2 * dim * hidden + (8 + 4 + 2 + 1 + 6) * dim + hidden
    return StepSize(TINY, tokens, 1, WIDE * numbers * TINY.num_layers, WIDE)


def expected_counts(machines: int) -> dict[str, tuple[int, float]]:
    """Messages and bytes of a forward in each way, by the formulas."""
    step = tiny_step()
    ways: dict[str, Traffic] = {
        "context": context_traffic(step, machines),
        "tensor": tensor_traffic(step, machines),
        "sharded": context_traffic(step, machines) + weights_traffic(step, machines),
    }
    return {name: (traffic.messages, traffic.nbytes) for name, traffic in ways.items()}


def count_here() -> dict[str, tuple[int, int]]:
    """Messages and bytes that this process sends in a forward of each way, with the others."""
    group = join_cluster().group
    assert group is not None
    collectives = Collectives(group)
    context, tensor = ContextParallel(collectives), TensorParallel(collectives)
    network = build_tiny()
    counts = {"context": _count(network, context.share, collectives)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        mx.save_safetensors(str(path), dict(tree_flatten(network.parameters())))
        part = WanTransformer(TINY)
        with tensor.split(part, open_tensors(path)) as source:
            load_module(part, source)
        counts["tensor"] = _count(part, tensor.share, collectives)
        whole, order = WanTransformer(TINY), [BlockName(MAIN, index) for index in range(TINY.num_layers)]
        with open_tensors(path) as file, load_sharded(whole, file, order, collectives) as blocks:
            counts["sharded"] = _count(whole, context.share, collectives, blocks)
    return counts


def build_tiny() -> WanTransformer:
    mx.random.seed(0)
    network = WanTransformer(TINY)
    mx.eval(network.parameters())
    return network


def _count(
    network: WanTransformer,
    share: Callable[[Pass], Pass],
    collectives: Collectives,
    blocks: BlockSource | None = None,
) -> tuple[int, int]:
    """Of the second forward: in the first, what depends on the text alone is computed for all."""
    one = share(Pass(network.project_text(mx.zeros((5, TINY.text_dim)))))
    latents = mx.random.normal((TINY.in_dim, GRID[0], 2 * GRID[1], 2 * GRID[2]))
    for _ in range(2):
        before = collectives.traffic.messages, collectives.traffic.nbytes
        mx.eval(network.predict(latents, STEP, [one], block_source=blocks))
    after = collectives.traffic.messages, collectives.traffic.nbytes
    return after[0] - before[0], after[1] - before[1]


def count_messages(machines: int) -> dict[str, tuple[int, int]]:
    """What rank 0 of so many processes sends in a forward of each way."""
    with ExitStack() as stack:
        hostfile = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ring.json"
        sockets = [stack.enter_context(socket()) for _ in range(machines)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        hostfile.write_text(json.dumps([[f"127.0.0.1:{one.getsockname()[1]}"] for one in sockets]))
        for one in sockets:
            one.close()
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.simulate_cluster", "--count"],
                stdout=subprocess.PIPE,
                env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)},
            )
            for rank in range(machines)
        ]
        told = [process.communicate(timeout=120)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process failed")
    return {name: tuple(counts) for name, counts in json.loads(told[0]).items()}


def gain_table() -> Iterator[str]:
    """Lines of a table: guided steps of the published models on two and four Macs."""
    columns = [f"{count} Macs, {way}" for count in COUNTS for way in WAYS[count]]
    yield f"| Macs | video | link | a step on one | {' | '.join(columns)} |"
    yield "|---" * (4 + len(columns)) + "|"
    steps = {name: step for size in SIZES for name, step in published_sizes(*size).items()}
    for chip in MACS:
        rate = CHIPS[chip].tflops * 1e12
        for name, step in steps.items():
            for title, link in LINKS.items():
                alone = step_seconds(None, step, 1, rate, link)
                gains = [
                    f"{predict_gain(way, step, count, rate, link):.2f}"
                    for count in COUNTS
                    for way in WAYS[count]
                ]
                yield f"| {chip} | {name} | {title} | {alone:.0f} s | {' | '.join(gains)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().count:
        sys.stdout.write(json.dumps(count_here()))
        return
    for machines in COUNTS:
        counted, expected = count_messages(machines), expected_counts(machines)
        for way, (messages, nbytes) in counted.items():
            print(f"{machines} processes, {way}: {messages} messages, {nbytes} bytes a forward")
        if counted != expected:
            raise SystemExit(f"counted {counted}, the formulas say {expected}")
    print("", *gain_table(), sep="\n")


if __name__ == "__main__":
    main()
