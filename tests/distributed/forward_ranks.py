"""What each process of the tests of shared forwards does: cases alone, then together with the others.

The cases are named behind the module.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from tests.distributed.forward_cases import CASES, TEXT_TO_VIDEO, VACE, Case, streamed
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


def tensor_velocities(case: Case, collectives: Collectives) -> list[np.ndarray]:
    """Of a case whose heads and channels are shared out, loaded from a file."""
    tensor, whole = TensorParallel(collectives), case.build()
    transformer = type(whole)(whole.config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        mx.save_safetensors(str(path), dict(tree_flatten(whole.parameters())))
        with tensor.split(transformer, open_tensors(path)) as source:
            load_module(transformer, source)
    return case.velocities(transformer, tensor.share)


class NotGathered(ContextParallel):
    """Tokens that attend to those of their own process alone."""

    def join_keys_values(self, queries, keys, values, num_tokens):
        return keys, values


def main() -> None:
    """Write what was found."""
    cluster = join_cluster()
    assert cluster.group is not None
    collectives = Collectives(cluster.group)
    found: dict[str, dict[str, Any]] = {"context": {}, "tensor": {}, "bytes": {}}
    for name in sys.argv[1:]:
        case = CASES[name]
        alone = case.velocities(case.build())
        found["tensor"][name] = largest_error(tensor_velocities(case, collectives), alone)
        found["context"] |= context_errors(case, name, alone, collectives)
        if case is TEXT:
            found["context"]["not gathered"] = largest_error(
                case.velocities(case.build(), NotGathered(collectives).share), alone
            )
    found["bytes"] = {"context": context_bytes(collectives), "tensor": tensor_bytes(collectives)}
    sys.stdout.write(json.dumps(found))


TOKENS, DIM, OUTPUTS = 18, 128, 64
"""Of the text case: numbers that a token has in a block, and in what the head makes of it."""
BLOCKS = 5
"""That run in a step of two passes, of which one goes through three blocks and the other through two."""


def context_bytes(collectives: Collectives) -> dict[str, int]:
    """Keys and values of the own tokens to all others, in each block; then the outputs."""
    before, case = collectives.traffic.nbytes, replace(TEXT, steps=1)
    case.velocities(case.build(), ContextParallel(collectives).share)
    longest = -(-TOKENS // collectives.size)
    expected = 4 * longest * (BLOCKS * 2 * DIM + 2 * OUTPUTS) * (collectives.size - 1)
    return {"sent": collectives.traffic.nbytes - before, "expected": expected}


def tensor_bytes(collectives: Collectives) -> dict[str, int]:
    """Three sums of all tokens in each block, and squares; those of the text's keys once for each prompt."""
    before, case = collectives.traffic.nbytes, replace(TEXT, steps=1)
    tensor_velocities(case, collectives)
    squares = BLOCKS * 3 * TOKENS + BLOCKS * TEXT_TO_VIDEO.text_len
    expected = 2 * 4 * (BLOCKS * 3 * TOKENS * DIM + squares) * (collectives.size - 1) / collectives.size
    return {"sent": collectives.traffic.nbytes - before, "expected": expected}


if __name__ == "__main__":
    main()
