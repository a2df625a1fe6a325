"""How machines share the steps of a video: what each mode asks for, and who computes what in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlx_video.config import ModelConfig
from mlx_video.distributed.cluster import Cluster
from mlx_video.distributed.collectives import Collectives, Traffic, split_group
from mlx_video.distributed.context_parallel import ContextParallel
from mlx_video.distributed.tensor_parallel import TensorParallel
from mlx_video.errors import RequestError
from mlx_video.planning.division import UNDIVIDED, Division
from mlx_video.request import GenerateRequest
from mlx_video.request.choices import ParallelMode
from mlx_video.runs.cluster.shared_weights import GatheredWeights, TensorWeights
from mlx_video.runs.cluster.step_split import StepSplit
from mlx_video.variants.registry import find_variant
from mlx_video.weights.block_shares import share_blocks


@dataclass(frozen=True, slots=True)
class StepMode:
    """A way to share the steps of one video.

    Attributes:
        split: who computes what, from this machine's exchanges with its group.
        groups: of machines, each of which makes other branches.
        words: what is shared, for people.
    """

    split: Callable[[Collectives, int], StepSplit]
    groups: int
    words: str


def divide(mode: ParallelMode, size: int) -> Division:
    """What one of so many machines has in memory of a transformer's work."""
    match mode:
        case "guidance" if size > 2:
            return Division("context", size // 2)
        case "context" | "tensor" | "sharded":
            return Division(mode, size)
    return UNDIVIDED


def _share_branches(group: Collectives, size: int) -> StepSplit:
    if group.size == 1:
        return StepSplit(size, 2)
    return StepSplit(size, 2, ContextParallel(group).share, division=divide("guidance", size))


def _share_tokens(group: Collectives, size: int) -> StepSplit:
    return StepSplit(size, 1, ContextParallel(group).share, division=divide("context", size))


def _share_heads(group: Collectives, size: int) -> StepSplit:
    return StepSplit(size, 1, TensorParallel(group).share, TensorWeights(group), divide("tensor", size))


def _share_weights(group: Collectives, size: int) -> StepSplit:
    share = ContextParallel(group).share
    return StepSplit(size, 1, share, GatheredWeights(group), divide("sharded", size))


STEP_MODES: Mapping[ParallelMode, StepMode] = {
    "guidance": StepMode(_share_branches, 2, "the passes of a step"),
    "context": StepMode(_share_tokens, 1, "the tokens"),
    "tensor": StepMode(_share_heads, 1, "heads and layers"),
    "sharded": StepMode(_share_weights, 1, "the tokens, and the weights of each block"),
}
"""Modes in which machines make one video together; "data" shares out whole videos."""


def describe_mode(mode: ParallelMode, size: int) -> str:
    """What so many machines share in a mode, for people."""
    if mode == "data":
        return "the videos of a list"
    found = STEP_MODES[mode]
    together = size // found.groups
    tokens = f", and the tokens of each pass among {together}" if found.groups > 1 and together > 1 else ""
    return f"{found.words}{tokens}"


def check_mode(
    mode: ParallelMode, size: int, config: ModelConfig, requests: Sequence[GenerateRequest]
) -> None:
    """Make sure that so many machines can share the work so.

    Raises:
        RequestError: they cannot.
    """
    if mode == "data" and len(requests) < 2:
        raise RequestError(
            "parallel",
            "data: shares the videos of a list out, and there is one. Ask for more with --count, --seeds or "
            "--prompt-file, or choose another way.",
        )
    if mode not in STEP_MODES:
        return
    if size % STEP_MODES[mode].groups:
        raise RequestError(
            "parallel",
            f"{mode}: shares two passes out evenly, and {size} machines were started. Start an even number, "
            "or choose --parallel context.",
        )
    variant = find_variant(config)
    if size > STEP_MODES[mode].groups and not variant.network.can_be_shared:
        raise RequestError(
            "parallel",
            f"{mode}: {size} machines cannot share the blocks of {variant.title}. Start two and choose "
            "guidance, or make a list with data.",
        )
    if mode == "tensor":
        _check_heads(config, size)
    for request in requests:
        _check_request(mode, request)


def _check_heads(config: ModelConfig, size: int) -> None:
    group_size = config.quantization.group_size if config.quantization else None
    try:
        share_blocks(config.transformer, 0, size, group_size)
    except ValueError as error:
        raise RequestError("parallel", f"tensor: {error}. Start fewer, or choose another way.") from error


def _check_request(mode: ParallelMode, request: GenerateRequest) -> None:
    if mode in ("tensor", "sharded") and request.stream == "on":
        raise RequestError(
            "parallel",
            f"{mode}: no block is read from a disk, as --stream on asks for. Leave one of them out.",
        )


def make_split(mode: ParallelMode, cluster: Cluster, traffic: Traffic) -> StepSplit:
    """Who computes what of the steps in a mode.

    Args:
        mode: that was checked.
        cluster: of which this is one machine.
        traffic: counts what this machine sends.
    """
    assert cluster.group is not None
    found = STEP_MODES[mode]
    if found.groups == 1:
        return found.split(Collectives(cluster.group, traffic), cluster.size)
    return found.split(split_group(cluster.group, cluster.size // found.groups, traffic), cluster.size)
