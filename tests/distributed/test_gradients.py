"""Gradients of several processes are added up, in messages of some size."""

from __future__ import annotations

import json

import pytest

from tests.distributed.ranks import run_code

SUM = """
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
total = gradients.sum_gradients(own, collectives)
messages = collectives.traffic.messages
expected = {name: np.sum([draw(each)[name] for each in range(size)], axis=0) for name in shapes}
error = max(
    np.abs(np.array(total[name].astype(mx.float32)) - expected[name]).max() for name in shapes if name != "c"
)
print(json.dumps({
    "error": float(error),
    "kept": all((total[name].shape, total[name].dtype) == (own[name].shape, own[name].dtype) for name in own),
    "messages": messages,
}))
"""


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_of_processes_are_added_up(count: int):
    found = [json.loads(out) for out in run_code(count, SUM)]
    assert max(one["error"] for one in found) < 1e-6
    assert all(one["kept"] for one in found)
    assert [one["messages"] for one in found] == [3] * count
