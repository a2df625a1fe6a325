"""What each process of the tests of shared forwards does: every case alone, then together with the others."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.context_parallel import ContextParallel
from mlx_video.distributed.tensor_parallel import TensorParallel
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.variants.vace import NETWORK
from mlx_video.weights.load import load_module
from tests.distributed.forward_cases import CASES, VACE, Case, streamed
from tests.models.networks import relative_error

TEXT = CASES["text"]


def largest_error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(map(relative_error, found, expected))


def context_errors(
    case: Case, name: str, alone: list[np.ndarray], collectives: Collectives
) -> dict[str, float]:
    """Of a case whose tokens are shared out, and of the same with streamed blocks where it has VACE's."""
    share = ContextParallel(collectives).share
    errors = {name: largest_error(case.velocities(case.build(), share), alone)}
    if "vace" in name:
        order = NETWORK.block_order(VACE)
        with (
            tempfile.TemporaryDirectory() as folder,
            streamed(case, Path(folder), order) as (network, blocks),
        ):
            errors[f"{name}, streamed"] = largest_error(case.velocities(network, share, blocks), alone)
    return errors


def tensor_error(case: Case, alone: list[np.ndarray], collectives: Collectives) -> float:
    """Of a case whose heads and channels are shared out, loaded from a file."""
    tensor, whole = TensorParallel(collectives), case.build()
    transformer = type(whole)(whole.config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        mx.save_safetensors(str(path), dict(tree_flatten(whole.parameters())))
        with tensor.split(transformer, open_tensors(path)) as source:
            load_module(transformer, source)
    return largest_error(case.velocities(transformer, tensor.share), alone)


class NotGathered(ContextParallel):
    """Tokens that attend to those of their own process alone."""

    def join_keys_values(self, queries, keys, values, num_tokens):
        return keys, values


def main() -> None:
    """Write what was found."""
    cluster = join_cluster()
    assert cluster.group is not None
    collectives = Collectives(cluster.group)
    found: dict[str, object] = {"context": {}, "tensor": {}}
    for name, case in CASES.items():
        alone = case.velocities(case.build())
        found["tensor"][name] = tensor_error(case, alone, collectives)
        found["context"] |= context_errors(case, name, alone, collectives)
        if case is TEXT:
            found["not gathered"] = largest_error(
                case.velocities(case.build(), NotGathered(collectives).share), alone
            )
    found |= count_bytes(collectives)
    sys.stdout.write(json.dumps(found))


def count_bytes(collectives: Collectives) -> dict[str, int]:
    """What a step of two passes sent, of which one goes through three blocks and the other through two."""
    before, case = collectives.traffic.nbytes, replace(TEXT, steps=1)
    case.velocities(case.build(), ContextParallel(collectives).share)
    size, tokens, dim, outputs = collectives.size, 18, 128, 64
    longest = -(-tokens // size)
    gathered = 5 * 2 * dim + 2 * outputs
    expected = 4 * longest * gathered * (size - 1)
    return {"sent": collectives.traffic.nbytes - before, "expected": expected}


if __name__ == "__main__":
    main()
