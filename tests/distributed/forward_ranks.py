"""What each process of the tests of shared forwards does: cases alone, then together with the others.

The cases are named behind the module.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_video.distributed.cluster import join_cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.context_parallel import ContextParallel
from mlx_video.distributed.sharded_blocks import ShardedBlocks, load_sharded
from mlx_video.distributed.tensor_parallel import TensorParallel
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.read import AdapterSet, read_adapters
from mlx_video.lora.shared_changes import share_adapters
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.models.control.vace import VACETransformer
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.request import LoraChoice
from mlx_video.variants.vace import NETWORK
from mlx_video.weights.load import load_module
from tests.distributed.forward_cases import CASES, TEXT_TO_VIDEO, VACE, WITHOUT_HEADS, Case, streamed
from tests.models.networks import relative_error

TEXT = CASES["text"]
MAIN_BLOCKS = [BlockName(MAIN, index) for index in range(TEXT_TO_VIDEO.num_layers)]


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


@contextmanager
def saved(network: VideoTransformer) -> Iterator[Path]:
    """A file of a network's weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        mx.save_safetensors(str(path), dict(tree_flatten(network.parameters())))
        yield path


def tensor_velocities(
    case: Case, collectives: Collectives, adapters: AdapterSet | None = None
) -> list[np.ndarray]:
    """Of a case whose heads and channels are shared out, loaded from a file."""
    tensor, whole = TensorParallel(collectives), case.build()
    transformer = type(whole)(whole.config)
    with saved(whole) as path, tensor.split(transformer, open_tensors(path)) as source:
        load_module(transformer, source)
        if adapters is not None:
            apply_adapters(transformer, share_adapters(adapters, source.share))
    return case.velocities(transformer, tensor.share)


def adapters_error(collectives: Collectives) -> float:
    """Of a quantized transformer whose heads are shared out, with adapters beside its layers and merged."""
    case, random = CASES["8 bits"], np.random.default_rng(2)
    layers = {"self_attn.o": (DIM, DIM), "cross_attn.k": (DIM, DIM), "ffn.0": (160, DIM), "ffn.2": (DIM, 160)}
    arrays = {}
    for name, (rows, columns) in layers.items():
        prefix = f"diffusion_model.blocks.1.{name}"
        arrays[f"{prefix}.lora_A.weight"] = random.standard_normal((4, columns)).astype(np.float32) / 8
        arrays[f"{prefix}.lora_B.weight"] = random.standard_normal((rows, 4)).astype(np.float32) / 8
    arrays["diffusion_model.blocks.0.self_attn.q.diff"] = random.standard_normal((DIM, DIM)).astype("f4") / 16
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        save_file(arrays, path)
        adapters = read_adapters([LoraChoice(path, 0.7)], TEXT_TO_VIDEO)
        whole = case.build()
        apply_adapters(whole, adapters)
        plain, alone = case.velocities(case.build()), case.velocities(whole)
        assert largest_error(plain, alone) > 1e-2
        return largest_error(tensor_velocities(case, collectives, adapters), alone)


@contextmanager
def sharded(case: Case, collectives: Collectives) -> Iterator[tuple[VideoTransformer, ShardedBlocks]]:
    """The case's transformer, of whose blocks this process has a part."""
    whole = case.build()
    transformer, order = type(whole)(whole.config), MAIN_BLOCKS
    if isinstance(whole, VACETransformer):
        order = NETWORK.block_order(VACE)
    with (
        saved(whole) as path,
        open_tensors(path) as source,
        load_sharded(transformer, source, order, collectives) as blocks,
    ):
        yield transformer, blocks


def sharded_errors(
    case: Case, name: str, alone: list[np.ndarray], collectives: Collectives
) -> dict[str, float]:
    """Of a case whose weights are shared out, and of the same whose tokens are, too."""
    share = ContextParallel(collectives).share
    with sharded(case, collectives) as (transformer, blocks):
        return {
            f"{name}, all tokens": largest_error(case.velocities(transformer, block_source=blocks), alone),
            name: largest_error(case.velocities(transformer, share, blocks), alone),
        }


class NotGathered(ContextParallel):
    """Tokens that attend to those of their own process alone."""

    def join_keys_values(self, queries, keys, values, num_tokens):
        return keys, values


def main() -> None:
    """Write what was found."""
    cluster = join_cluster()
    assert cluster.group is not None
    collectives = Collectives(cluster.group)
    found: dict[str, dict[str, Any]] = {"context": {}, "tensor": {}, "sharded": {}, "bytes": {}}
    for name in sys.argv[1:]:
        case = CASES[name]
        alone = case.velocities(case.build())
        if name not in WITHOUT_HEADS:
            found["tensor"][name] = largest_error(tensor_velocities(case, collectives), alone)
        found["sharded"] |= sharded_errors(case, name, alone, collectives)
        found["context"] |= context_errors(case, name, alone, collectives)
        if case is TEXT:
            found["context"]["not gathered"] = largest_error(
                case.velocities(case.build(), NotGathered(collectives).share), alone
            )
    found["tensor"]["adapters"] = adapters_error(collectives)
    found["bytes"] = {
        "context": context_bytes(collectives),
        "tensor": tensor_bytes(collectives),
        "sharded": sharded_bytes(collectives),
    }
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


def sharded_bytes(collectives: Collectives) -> dict[str, int]:
    """This process's part of each block to all others, once for both passes of the step."""
    case = replace(TEXT, steps=1)
    with sharded(case, collectives) as (transformer, blocks):
        before = collectives.traffic.nbytes
        case.velocities(transformer, block_source=blocks)
        whole = sum(
            array.nbytes for name, array in tree_flatten(case.build().parameters()) if "blocks" in name
        )
        expected = whole * (collectives.size - 1) // collectives.size
        return {"sent": collectives.traffic.nbytes - before, "expected": expected}


if __name__ == "__main__":
    main()
