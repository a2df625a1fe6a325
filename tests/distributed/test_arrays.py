"""Arrays go from process to process bit for bit, and what is sent is counted."""

from __future__ import annotations

from tests.distributed.ranks import run_code

SPREAD = """
import hashlib, sys
import mlx.core as mx
from mlx_video.distributed.arrays import ArrayExchange, kinds_of
from mlx_video.distributed.channel import EndOfWork
from mlx_video.distributed.cluster import join_cluster
cluster = join_cluster()
exchange = ArrayExchange(cluster)
mx.random.seed(0)
arrays = [mx.random.normal((3, 5)), mx.random.normal((7,)).astype(mx.bfloat16), mx.zeros((0, 4)),
          mx.array(3), mx.array([True, False])]
kinds = kinds_of(arrays)
if cluster.leads:
    exchange.spread(arrays)
else:
    arrays = exchange.take_spread(kinds)
if cluster.rank == cluster.size - 1:
    exchange.send(arrays[:1], 0)
elif cluster.leads:
    arrays = exchange.receive(kinds[:1], cluster.size - 1) + arrays[1:]
told = b"".join(bytes(memoryview(each.reshape(-1).view(mx.uint8))) for each in arrays if each.size)
print(kinds, hashlib.sha256(told).hexdigest())
print(exchange.traffic.messages, exchange.traffic.nbytes)
if cluster.leads:
    cluster.channel.receive_all()
else:
    cluster.channel.send(0, "done")
    try: cluster.channel.receive(0)
    except EndOfWork: pass
cluster.channel.end()
"""


def test_arrays_of_rank_0_reach_all_bit_for_bit_and_are_counted():
    told = [out.splitlines() for out in run_code(3, SPREAD)]
    assert len({bits for bits, _ in told}) == 1
    nbytes = 3 * 5 * 4 + 7 * 2 + 0 + 4 + 2
    assert [sent for _, sent in told] == [f"5 {nbytes}", f"5 {nbytes}", "1 60"]
