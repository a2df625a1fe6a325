"""How fast machines reach each other, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import mlx.core as mx

from mlx_video.distributed.collectives import Collectives
from mlx_video.planning.machine_gains import Link

GATHERED_BYTES = 1 << 24
"""Of each machine, in the gather that tells the rate."""
_TURNS = 5


def measure_link(collectives: Collectives) -> Link:
    """The link between neighbours; all machines call this at the same time.

    The latency is that of a hop in the shortest gather, the rate that of what a machine sends in a long one.
    """
    hops = collectives.size - 1
    short = _median_seconds(lambda: collectives.gather(mx.zeros((1,))))
    array = mx.zeros((GATHERED_BYTES // 4,))
    mx.eval(array)
    long = _median_seconds(lambda: collectives.gather(array))
    return Link(short / hops, hops * GATHERED_BYTES / max(long - short, 1e-9))


def measure_rate(side: int = 1024) -> float:
    """Operations a second of this machine in products, where no table tells."""
    matrix = mx.random.normal((side, side))
    mx.eval(matrix)
    return 2 * side**3 / _median_seconds(lambda: matrix @ matrix)


def _median_seconds(make: Callable[[], mx.array]) -> float:
    mx.eval(make())  # connections and kernels are warm
    turns = []
    for _ in range(_TURNS):
        begun = time.perf_counter()
        mx.eval(make())
        turns.append(time.perf_counter() - begun)
    return statistics.median(turns)
