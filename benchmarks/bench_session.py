"""What a list of videos saves: time to the second video over the first, and bytes of weights read.

    python -m benchmarks.bench_session                # 0.8 GB per expert, 4 GB of disk for a while
    python -m benchmarks.bench_session --num-layers 1

A synthetic Wan2.2-T2V-A14B of reduced size is converted in float32. Three videos of one size are made by a
pipeline that keeps nothing; as a list with memory for everything; and as a list with memory for one expert,
which lets the experts take turns. Every way runs in a process of its own, ways in turns, medians of
`--turns`; the latents of all ways must be equal. Everything is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench_relay import ROOT, convert, write_source

OPTIONS: dict[str, Any] = {
    "width": 64,
    "height": 64,
    "num_frames": 5,
    "steps": 2,
    "shift": 5.0,
    "boundary": 0.9,
    "guide_scale": (3.0, 4.0),
    "seed": 1,
    "prompt_cache": False,
}
PROMPTS = ("a red circle", "a blue square", "a green triangle")
WAYS = ("nothing kept", "list", "list, one expert at a time")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-layers", type=int, default=4, help="blocks of 1.3B width (default: 4)")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each way (default: 3)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_measured(Path(args.child[0]), args.child[1])))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench_session_") as folder:
        source, converted = Path(folder) / "source", Path(folder) / "converted"
        expert_bytes = write_source(source, args.num_layers)
        convert(source, converted)
        turns = [{way: measure(converted, way) for way in WAYS} for _ in range(args.turns)]
        report(expert_bytes, turns, args.num_layers)
    return 0


def measure(folder: Path, way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_session", "--child", str(folder), way]
    printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, Any] = json.loads(printed)
    return figures


def run_measured(folder: Path, way: str) -> dict[str, Any]:
    """Seconds and bytes read until each video is done, and sums of the latents."""
    import mlx.core as mx

    from mlx_video import WanPipeline

    read = count_reads()
    if way == WAYS[2]:
        leave_one_expert()
    started = time.perf_counter()
    seconds, nbytes, sums = [], [], {}
    pipe = WanPipeline.from_pretrained(folder, keep_networks=way != WAYS[0])
    for result in pipe.batch(PROMPTS, **OPTIONS):
        assert result.video is not None, result.error
        seconds.append(time.perf_counter() - started)
        nbytes.append(read[0])
        sums[result.index] = mx.sum(result.video.latents).item()
    return {"seconds": seconds, "bytes": nbytes, "sums": [sums[index] for index in sorted(sums)]}


def count_reads() -> list[int]:
    """A count of the bytes of weights that are read from now on."""
    from mlx_video.formats.tensor_file import TensorFile

    count = [0]
    read, read_into = TensorFile.read, TensorFile.read_into

    def counted_read(self: TensorFile, name: str, rows: Any = None) -> Any:
        array = read(self, name, rows)
        count[0] += array.nbytes
        return array

    def counted_read_into(self: TensorFile, name: str, memory: Any) -> Any:
        count[0] += memoryview(memory).nbytes
        return read_into(self, name, memory)

    TensorFile.read, TensorFile.read_into = counted_read, counted_read_into  # type: ignore[method-assign]
    return count


def leave_one_expert() -> None:
    """Have every plan say that no network fits beside the work of another."""
    from dataclasses import replace

    from mlx_video.runs import memory
    from mlx_video.runs.batch import expert_phases

    expert_phases.WORTH_BYTES = 0

    plan_of = memory.plan_of

    def without_kept(run: Any) -> Any:
        plan = plan_of(run)
        return replace(plan, choices=replace(plan.choices, kept=frozenset()), kept=())

    memory.plan_of = without_kept


def report(expert_bytes: int, turns: list[dict[str, dict[str, Any]]], num_layers: int) -> None:
    sums = [found["sums"] for turn in turns for found in turn.values()]
    assert all(one == sums[0] for one in sums), "the ways make different latents"
    print(f"one expert holds {expert_bytes / 1e9:.2f} GB in float32; latents of all ways are equal")
    medians = {}
    for way in WAYS:
        per_turn = [turn[way]["seconds"] for turn in turns]
        nbytes = turns[0][way]["bytes"]
        first = statistics.median(each[0] for each in per_turn)
        second = statistics.median(each[1] - each[0] for each in per_turn)
        total = statistics.median(each[-1] for each in per_turn)
        medians[way] = (first, second, total, nbytes)
        print(
            f"{way}: first {first:.2f} s, second {second:.2f} s after it ({second / first:.2f} times), all "
            f"{total:.2f} s; read {nbytes[0] / 1e9:.2f} GB, {(nbytes[1] - nbytes[0]) / 1e9:.2f} GB for the "
            f"second, {nbytes[-1] / 1e9:.2f} GB in all"
        )
    alone, listed, turned = (medians[way] for way in WAYS)
    size = f"{num_layers} blocks of 1.3B width an expert, float32 | three of 64×64×5, 2 steps"
    print(
        f"| second video of a list | {size} | {listed[1]:.1f} | {listed[1] / listed[0]:.2f} × the first; "
        f"{(listed[3][1] - listed[3][0]) / 1e9:.2f} GB read, first {listed[3][0] / 1e9:.2f} |"
    )
    print(
        f"| experts in turn over a list | {size} | {turned[2]:.1f} | {turned[2] / alone[2]:.2f} × "
        f"nothing kept; {turned[3][-1] / 1e9:.2f} GB read instead of {alone[3][-1] / 1e9:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
