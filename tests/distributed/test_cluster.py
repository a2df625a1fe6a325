"""Processes that were started together know each other; one that was started by itself is alone."""

from __future__ import annotations

import signal
import socket

import pytest

from mlx_video.distributed.cluster import is_launched, join_cluster
from tests.distributed.ranks import run_code, run_ranks, started

TELL = """
import mlx.core as mx
from mlx_video.distributed.cluster import gather_bytes, join_cluster
cluster = join_cluster()
texts = gather_bytes(cluster.group, b"x" * cluster.rank)
total = mx.distributed.all_sum(mx.array(cluster.rank + 1), group=cluster.group).item()
print(cluster.rank, cluster.size, cluster.leads, cluster.others, [len(text) for text in texts], total)
"""


def test_a_process_that_was_started_by_itself_is_alone():
    assert not is_launched({})
    cluster = join_cluster()
    assert (cluster.rank, cluster.size, cluster.group) == (0, 1, None)
    assert cluster.leads
    assert cluster.others == ()
    assert cluster.host == socket.gethostname()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_were_started_together_meet(count: int):
    lengths, total = [*range(count)], count * (count + 1) // 2
    for rank, out in enumerate(run_code(count, TELL)):
        others = tuple(other for other in range(count) if other != rank)
        assert out.strip() == f"{rank} {count} {rank == 0} {others} {lengths} {total}"


def test_the_names_of_a_group_are_those_of_its_machines():
    code = (
        "from mlx_video.distributed.cluster import join_cluster as j; c = j(); print(c.hosts, c.describe(1))"
    )
    name = socket.gethostname()
    assert run_code(2, code) == [f"{(name, name)} {name} (rank 1 of 2)\n"] * 2


JOIN = """
import sys
from mlx_video.distributed.cluster import join_cluster
from mlx_video.errors import ClusterError
try: join_cluster(float(sys.argv[1]))
except ClusterError as error: print(error)
"""


def test_those_who_do_not_come_are_named_by_rank_0_and_the_others_end_too():
    joined = ["-c", JOIN, "1.5"]
    first, _, third = run_ranks(3, [joined, ["-c", ""], joined])
    assert "127.0.0.1 (rank 1 of 3) did not come within 1.5 s. Check that each is on" in first.out
    assert "(rank 0 of 3) d" in third.out
    assert first.code == third.code == 0


def test_a_process_that_nobody_answers_says_so():
    _, second = run_ranks(2, [["-c", ""], ["-c", JOIN, "0.5"]])
    assert f"(rank 0 of 2) did not answer {socket.gethostname()} for 0.5 s" in second.out
    assert "Check that the machine is on and the address right." in second.out


def test_processes_that_do_not_end_are_killed():
    ended = run_ranks(2, ["-c", "import time; print('here', flush=True); time.sleep(60)"], seconds=1)
    assert [one.code for one in ended] == [-signal.SIGKILL] * 2
    with started(2, ["-c", "import time; time.sleep(60)"]) as ranks:
        ranks[0].send_signal(signal.SIGSTOP)
    assert [process.poll() for process in ranks.processes] == [-signal.SIGKILL] * 2
