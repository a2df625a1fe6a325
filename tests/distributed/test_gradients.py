"""Gradients of several processes are averaged: the same bits everywhere, in messages of some size."""

from __future__ import annotations

import json

import pytest

from tests.distributed.ranks import run_code

AVERAGE = """
import json
import mlx.core as mx
import numpy as np
from mlx_video.distributed import gradients
from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives

gradients.MESSAGE_BYTES = 100
collectives = Collectives(join_cluster().group)
rank, size = collectives.rank, collectives.size
shapes = {"b.up": (5, 3), "a.down": (2, 2, 4), "a.up": (1,), "c": (64,)}


def draw(rank):
    random = np.random.default_rng(rank)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


own = {name: mx.array(array) for name, array in draw(rank).items()}
own["c"] = own["c"].astype(mx.bfloat16)
mean = gradients.average_gradients(own, collectives)
messages = collectives.traffic.messages
expected = {name: np.mean([draw(each)[name] for each in range(size)], axis=0) for name in shapes}
error = max(
    np.abs(np.array(mean[name].astype(mx.float32)) - expected[name]).max() for name in shapes if name != "c"
)
bits = b"".join(np.array(mean[name].astype(mx.float32)).tobytes() for name in sorted(mean)).hex()
print(json.dumps({
    "error": float(error),
    "bits": bits,
    "kept": all(mean[name].shape == own[name].shape and mean[name].dtype == own[name].dtype for name in own),
    "messages": messages,
    "losses": gradients.gather_numbers([rank, rank + 0.5], collectives),
}))
"""


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_of_processes_are_averaged(count: int):
    found = [json.loads(out) for out in run_code(count, AVERAGE)]
    assert max(one["error"] for one in found) < 1e-6
    assert len({one["bits"] for one in found}) == 1
    assert all(one["kept"] for one in found)
    assert [one["messages"] for one in found] == [3] * count
    losses = [number for rank in range(count) for number in (rank, rank + 0.5)]
    assert [one["losses"] for one in found] == [losses] * count
