"""Run the whole campaign and print what is not as it must be.

python -m tests.hostile
python -m tests.hostile --only gguf
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.hostile.campaign import run_case
from tests.hostile.cases import all_cases
from tests.hostile.world import build_world


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose title holds this text")
    parser.add_argument("--every", type=int, default=1, help="one of so many cases, default %(default)s: all")
    parser.add_argument("--show", action="store_true", help="print every message")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hostile_") as place:
        root = Path(place)
        os.environ["MLX_VIDEO_CACHE"] = str(root / "cache")
        os.environ["HF_HUB_OFFLINE"] = "1"
        world, counts, faulty = build_world(root / "world"), Counter(), 0
        chosen = [case for case in all_cases(world) if args.only in case.title][:: args.every]
        for number, case in enumerate(chosen):
            outcome = run_case(case, root / "cases" / str(number))
            counts[case.kind] += 1
            if outcome.faults:
                faulty += 1
                print(
                    f"{case.title}: {'; '.join(outcome.faults)}\n    {outcome.text.strip()[-300:]!r}",
                    flush=True,
                )
            elif args.show:
                print(
                    f"{case.title} ({outcome.seconds:.1f} s)\n    {outcome.text.strip()[-300:]}", flush=True
                )
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    print(f"{counts.total()} inputs, {faulty} not as they must be, {time.perf_counter() - started:.0f} s")
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
