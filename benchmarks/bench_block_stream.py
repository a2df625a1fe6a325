"""Streamed transformer blocks: how much of the reading is hidden, and how little memory a large model needs.

    python -m benchmarks.bench_block_stream overlap      # 10 blocks of 1.3B width, 1 GB of disk
    python -m benchmarks.bench_block_stream full         # Wan2.1-14B in bfloat16, 29 GB of disk

`overlap` takes three works in turns: a forward with all blocks in memory, the same forward with all blocks
streamed, and reading all blocks with nothing else to do. What the system has cached of a tensor is dropped as
soon as it has been read, so every read is one from the disk. What the streamed forward does not take longer
is hidden. Before that, both forwards are compared bit for bit.

`full` writes a random model of full size and takes guided steps at a tiny size in a process of its own, no
block resident. The same step twice must give the same finite velocity, and read what it is said to read.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from benchmarks.bench_convert import bare_bytes, peak_resident_bytes, random_tensors, write_safetensors
from benchmarks.forward import STEP, predict_velocity
from benchmarks.timing import Timing, Work, alternate
from mlx_video.config import TransformerConfig
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.loading.block_stream import load_streamed
from mlx_video.loading.refillable_module import RefillableModule
from mlx_video.models.block_context import Pass, PromptTokens
from mlx_video.models.forward import BlockSource
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.transformer_block import TransformerBlock
from mlx_video.weights.load import load_module
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from mlx_video.weights.network import PLAIN
from mlx_video.weights.rules import target_shapes

ROOT = Path(__file__).parents[1]
DTYPES = {"float32": "F32", "bfloat16": "BF16"}
LEAST_HIDDEN = 0.8
MOST_WEIGHT_BYTES = 4e9


class ColdFile(SafetensorsFile):
    """A file of which nothing stays in the system's cache; counts what is read and how long that takes."""

    read_bytes = 0
    read_seconds = 0.0

    def read_into(self, name: str, memory: memoryview) -> None:
        started = time.perf_counter()
        super().read_into(name, memory)
        self.read_seconds += time.perf_counter() - started
        self.read_bytes += memory.nbytes
        if hasattr(os, "posix_fadvise"):
            place = self._placements[name]
            os.posix_fadvise(self._file.fileno(), place.position, memory.nbytes, os.POSIX_FADV_DONTNEED)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("overlap", "full"))
    parser.add_argument("--dim", type=int, help="width (default: 1536 for overlap, 5120 for full)")
    parser.add_argument("--ffn-dim", type=int, help="default: 8960, 13824")
    parser.add_argument("--num-heads", type=int, help="default: 12, 40")
    parser.add_argument("--num-layers", type=int, help="blocks (default: 10, 40)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="default: %(default)s")
    parser.add_argument("--grid", type=int, nargs=3, help="tokens t h w (default: 1 20 26; 1 4 4)")
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds of overlap (default: 7)")
    parser.add_argument("--steps", type=int, default=2, help="of full (default: 2)")
    parser.add_argument("--folder", type=Path, help="where the file is made (default: the system's for such)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(take_steps(args.child, config_of(args), grid_of(args), args.steps)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench_block_stream_", dir=args.folder) as folder:
        path = Path(folder) / "model.safetensors"
        shapes = target_shapes(transformer_tensors(config_of(args)), WAN_RULES)
        write_safetensors(path, random_tensors(shapes, DTYPES[args.dtype]))
        return (measure_overlap if args.what == "overlap" else measure_full)(path, args)


def config_of(args: argparse.Namespace) -> TransformerConfig:
    dim, ffn_dim, num_heads, num_layers = (
        (1536, 8960, 12, 10) if args.what == "overlap" else (5120, 13824, 40, 40)
    )
    return TransformerConfig(
        args.dim or dim, args.ffn_dim or ffn_dim, args.num_heads or num_heads, args.num_layers or num_layers
    )


def grid_of(args: argparse.Namespace) -> tuple[int, int, int]:
    t, h, w = args.grid or ((1, 20, 26) if args.what == "overlap" else (1, 4, 4))
    return t, h, w


def random_latents(config: TransformerConfig, grid: tuple[int, int, int]) -> mx.array:
    t, h, w = grid
    return mx.random.normal((config.in_dim, t, 2 * h, 2 * w), key=mx.random.key(0))


def random_prompts(transformer: WanTransformer, count: int) -> list[PromptTokens]:
    contexts = mx.random.normal((count, 60, transformer.config.text_dim), key=mx.random.key(1))
    return [transformer.project_text(context) for context in contexts]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Forwards with streamed blocks beside resident ones, and the reading alone.

    Attributes:
        timings: label → times.
        nbytes: that a streamed forward reads.
        hidden: part of the reading that the streamed forward takes no longer for.
    """

    timings: Mapping[str, Timing]
    nbytes: int
    hidden: float


def time_overlap(
    path: Path,
    config: TransformerConfig,
    grid: tuple[int, int, int],
    repeats: int,
    open_file: Callable[[Path], SafetensorsFile] = ColdFile,
) -> Overlap:
    """Time the three works in turns, after both forwards were compared.

    Args:
        path: a transformer's file.
        config: of the transformer.
        grid: tokens (t, h, w).
        repeats: counted rounds.
        open_file: how the file is read.
    """
    resident, streamed = WanTransformer(config), WanTransformer(config)
    order = PLAIN.block_order(config)
    with (
        open_file(path) as source,
        open_file(path) as other,
        load_streamed(streamed, source, order, 0) as blocks,
    ):
        load_module(resident, source)
        works: dict[str, Work] = {
            "resident": forward_of(resident, grid, None),
            "streamed": forward_of(streamed, grid, blocks),
        }
        if not mx.array_equal(*(work() for work in works.values())).item():
            raise SystemExit("streamed and resident forward differ")
        works["reading alone"] = read_all(other, config)
        timings = alternate(works, warmups=1, repeats=repeats)
    hidden = statistics.median(
        1 - (slow - fast) / reading
        for fast, slow, reading in zip(*(timing.seconds for timing in timings.values()), strict=True)
    )
    return Overlap(timings, blocks.bytes_per_step, hidden)


def measure_overlap(path: Path, args: argparse.Namespace) -> int:
    config, grid = config_of(args), grid_of(args)
    overlap = time_overlap(path, config, grid, args.repeats)
    timings, nbytes, hidden = overlap.timings, overlap.nbytes, overlap.hidden
    for label, timing in timings.items():
        print(f"{label}: {timing.median:.3f} s ±{timing.spread:.2g}, peak {timing.peak_bytes / 1e9:.2f} GB")
    rate = nbytes / timings["reading alone"].median
    verdict = "kept" if hidden >= LEAST_HIDDEN else "MISSED"
    print(f"{nbytes / 1e9:.2f} GB a step from the disk, {rate / 1e9:.2f} GB/s when read alone")
    print(f"hidden: {hidden:.0%} of the reading, at least {LEAST_HIDDEN:.0%} wanted: {verdict}")
    print(
        f"| streamed blocks, {args.dtype} | {config.num_layers} blocks, dim {config.dim} | "
        f"{grid[0] * grid[1] * grid[2]} tokens | {timings['streamed'].median:.3g} | "
        f"{timings['streamed'].median / timings['resident'].median:.3f} × resident; {hidden:.0%} of "
        f"{timings['reading alone'].median:.2g} s of reading hidden |"
    )
    return 0


def forward_of(
    transformer: WanTransformer, grid: tuple[int, int, int], source: BlockSource | None
) -> Callable[[], mx.array]:
    latents, text = random_latents(transformer.config, grid), random_prompts(transformer, 1)[0]
    return lambda: predict_velocity(transformer, latents, text, source)


def read_all(source: SafetensorsFile, config: TransformerConfig) -> Work:
    """Read every block into the same memory, one after another, and do nothing else."""
    order = PLAIN.block_order(config)
    block = RefillableModule(TransformerBlock(config), source.infos, order[0].prefix)

    def run() -> None:
        for name in order:
            block.fill(source, name.prefix)

    return run


def measure_full(path: Path, args: argparse.Namespace) -> int:
    print(f"{path.stat().st_size / 1e9:.2f} GB written", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.bench_block_stream", *sys.argv[1:], "--child", str(path)]
    printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(printed)
    verdict = "kept" if figures["weights"] < MOST_WEIGHT_BYTES else "MISSED"
    print(
        f"weights in memory {figures['weights'] / 1e9:.2f} GB of {path.stat().st_size / 1e9:.2f} GB, "
        f"less than {MOST_WEIGHT_BYTES / 1e9:.0f} GB wanted: {verdict}"
    )
    print(
        f"peak of MLX {figures['peak'] / 1e9:.2f} GB, resident {figures['resident'] / 1e9:.2f} GB above the "
        f"interpreter; {figures['read'] / 1e9:.2f} GB read a step"
    )
    print(f"first guided step {figures['first']:.1f} s, later ones {figures['later']:.1f} s")
    config, grid = config_of(args), grid_of(args)
    print(
        f"| streamed blocks, {args.dtype} | {config.num_layers} blocks, dim {config.dim} "
        f"({path.stat().st_size / 1e9:.1f} GB) | {grid[0] * grid[1] * grid[2]} tokens, guided step | "
        f"{figures['later']:.3g} | {figures['weights'] / 1e9:.2f} GB of weights in memory | "
        f"{figures['peak'] / 1e9:.2f} |"
    )
    return 0


def take_steps(
    path: Path, config: TransformerConfig, grid: tuple[int, int, int], steps: int
) -> dict[str, float]:
    bare = bare_bytes()
    latents, seconds, velocities = random_latents(config, grid), [], []
    transformer = WanTransformer(config)
    order = PLAIN.block_order(config)
    with ColdFile(path) as source, load_streamed(transformer, source, order, 0) as blocks:
        weights = mx.get_active_memory() - latents.nbytes
        prompts = random_prompts(transformer, 2)
        for _ in range(steps):
            started, before = time.perf_counter(), source.read_bytes
            passes = [Pass(prompt) for prompt in prompts]
            velocities.append(transformer.predict(latents, STEP, passes, block_source=blocks))
            mx.eval(velocities[-1])
            seconds.append(time.perf_counter() - started)
            # One block more: the first of the next step is read ahead.
            block_bytes = blocks.bytes_per_step // config.num_layers
            if source.read_bytes - before > blocks.bytes_per_step + block_bytes:
                raise SystemExit("a step read more than its blocks")
    if not all(mx.isfinite(velocity).all().item() for velocity in velocities[0]):
        raise SystemExit("the velocity is not finite")
    if not all(mx.array_equal(a, b).item() for a, b in zip(velocities[0], velocities[-1], strict=True)):
        raise SystemExit("the same step gave another velocity")
    return {
        "weights": weights,
        "peak": mx.get_peak_memory(),
        "resident": peak_resident_bytes() - bare,
        "read": blocks.bytes_per_step,
        "first": seconds[0],
        "later": statistics.median(seconds[1:] or seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
