"""Measure this Mac in about ten minutes: what nobody without one can know.

    python -m benchmarks.on_this_mac

Rates of products, attention, convolutions and norms, every operation in every way that there is (kernels of
our own among them); forwards of transformers and both VAEs over their bare work; how much of the reading is
hidden while blocks are streamed; memory as planned and as measured. No weights are needed. Each part runs in
a process of its own, and what was measured is written after each: a part that fails, or Ctrl-C, loses no
other. The result is one JSON file, and one Markdown row to paste into an issue.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.on_this_mac.parts import PARTS, SCALES
from benchmarks.on_this_mac.report import describe, estimate_minutes, markdown_row
from benchmarks.timing import current_commit, describe_machine
from mlx_video.device.report import this_machine
from mlx_video.files.whole_file import written_whole

ROOT = Path(__file__).parents[2]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("on_this_mac.json"), help="default %(default)s")
    parser.add_argument("--scale", choices=SCALES, default="full", help="sizes, default %(default)s")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
        help="which of: %(choices)s (default: all)",
    )  # fmt: skip
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    return parser


def run_part(name: str, scale: str) -> dict[str, Any]:
    """Measure one part in a process of its own; how it failed, if it did."""
    command = [sys.executable, "-m", "benchmarks.on_this_mac", "--scale", scale, "--child", name]
    started = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        return {"seconds": seconds, "failure": last[0]}
    return {"seconds": seconds, "figures": json.loads(result.stdout)}


def main() -> int:
    args = build_parser().parse_args()
    if args.child:
        print(json.dumps(PARTS[args.child](SCALES[args.scale])))
        return 0
    machine = this_machine()
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "device": machine.describe(),
        "commit": current_commit(),
        "scale": args.scale,
        "parts": {},
    }
    print(report["machine"], report["device"], sep="\n")
    for name in args.parts:
        about = (PARTS[name].__doc__ or "").splitlines()[0]
        minutes = estimate_minutes(name, SCALES[args.scale], report["parts"])
        print(f"\n{name}: {about}" + (f" About {minutes:.0f} min." if minutes else ""), flush=True)
        report["parts"][name] = run_part(name, args.scale)
        for line in describe(name, report["parts"][name]):
            print(f"  {line}")
        with written_whole(args.output) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{args.output} holds all figures. The row for an issue:\n\n{markdown_row(report)}")
    return int(any("failure" in part for part in report["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
