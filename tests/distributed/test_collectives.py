"""Exchanges of a whole group and of neighbours among it: what arrives, and what is counted."""

from __future__ import annotations

import json

import pytest

from tests.distributed.ranks import run_code

EXCHANGE = """
import json, sys
import mlx.core as mx
from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives, split_group

group, size = join_cluster().group, int(sys.argv[1])
some = split_group(group, size) if size else Collectives(group)
own = mx.full((3, 2), float(group.rank()))
found = {"rank": some.rank, "size": some.size}
for _ in range(3):  # none overtakes another
    gathered, total = some.gather(own), some.sum(own)
    mx.eval(gathered, total)
found |= {"gathered": gathered[::3, 0].tolist(), "sum": total[0, 0].item(), "shape": gathered.shape}
print(json.dumps(found | {"sent": some.traffic.nbytes, "messages": some.traffic.messages}))
# Whoever leaves first breaks the ring of those that are not done.
mx.eval(mx.distributed.all_sum(mx.ones(1), group=group))
"""
NBYTES = 24


@pytest.mark.parametrize(("count", "size"), [(2, 2), (3, 3), (4, 2)])
def test_neighbours_exchange_among_themselves(count: int, size: int):
    for rank, out in enumerate(run_code(count, EXCHANGE, str(size))):
        found, first = json.loads(out), rank // size * size
        assert (found["rank"], found["size"]) == (rank - first, size)
        assert found["gathered"] == [*range(first, first + size)]
        assert found["sum"] == sum(found["gathered"])
        assert found["shape"] == [3 * size, 2]
        # Of three ranks that in the middle passes on what comes from both sides.
        passed_on = {0: 1, 1: 4, 2: 1}[rank] if size == 3 else 1
        assert found["sent"] == 3 * 2 * NBYTES * passed_on


def test_a_whole_group_exchanges_at_once():
    for rank, out in enumerate(run_code(3, EXCHANGE, "0")):
        found = json.loads(out)
        assert (found["rank"], found["size"], found["messages"]) == (rank, 3, 6)
        assert (found["gathered"], found["sum"]) == ([0, 1, 2], 3)
        assert found["sent"] == 3 * (2 * NBYTES + 4 * NBYTES // 3)


def test_groups_that_do_not_come_out_even_are_a_wrong_call():
    code = (
        "import mlx.core as mx\n"
        "from mlx_video.distributed.collectives import split_group\n"
        "try: split_group(mx.distributed.init(), 3)\n"
        "except ValueError as error: print(error)\n"
    )
    assert run_code(2, code) == ["2 processes cannot be cut into groups of 3\n"] * 2
