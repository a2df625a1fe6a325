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


def test_a_process_that_nobody_answers_says_so():
    code = (
        "import os; os.environ['MLX_RANK'] = '1'\n"
        "from mlx_video.distributed.cluster import join_cluster\n"
        "from mlx_video.errors import ClusterError\n"
        "import mlx.core as mx\n"
        "def fail(): raise RuntimeError('[ring] Couldn\\'t connect (error: 111)')\n"
        "mx.distributed.init = fail\n"
        "try: join_cluster()\n"
        "except ClusterError as error: print(error)\n"
    )
    (told,) = run_code(1, code)
    assert "(rank 1): the other machines cannot be reached ([ring] Couldn't connect (error: 111))" in told
    assert "Check that every host of the hostfile is up" in told


def test_processes_that_do_not_end_are_killed():
    ended = run_ranks(2, ["-c", "import time; print('here', flush=True); time.sleep(60)"], seconds=1)
    assert [one.code for one in ended] == [-signal.SIGKILL] * 2
    with started(2, ["-c", "import time; time.sleep(60)"]) as ranks:
        ranks[0].send_signal(signal.SIGSTOP)
    assert [process.poll() for process in ranks.processes] == [-signal.SIGKILL] * 2
