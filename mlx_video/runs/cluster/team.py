"""The machines of a command, once they are known to compute the same, and how they share its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_video.config import ModelConfig
from mlx_video.distributed.arrays import ArrayExchange
from mlx_video.distributed.cluster import Cluster
from mlx_video.errors import RequestError
from mlx_video.events import Notice, Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request import LORA_FIELDS, GenerateRequest
from mlx_video.request.choices import ParallelMode
from mlx_video.runs.batch.maker import Dealing
from mlx_video.runs.cluster.choose import Expected, expect_modes
from mlx_video.runs.cluster.dealer import Dealer
from mlx_video.runs.cluster.leader import StepLeader
from mlx_video.runs.cluster.machine_facts import (
    MachineFacts,
    find_facts,
    gather_facts,
    measure_together,
    refuse_differences,
)
from mlx_video.runs.cluster.modes import check_mode, describe_mode, make_split
from mlx_video.runs.generate import settle
from mlx_video.runs.sharing import StepSharing


@dataclass(frozen=True, slots=True)
class Team:
    """What the others do in a command.

    Attributes:
        mode: how the work is shared.
        sharing: lets them take part in the steps of each video; None where they do not.
        dealing: lets them make whole videos; None where they do not.
    """

    mode: ParallelMode
    sharing: StepSharing | None = None
    dealing: Dealing | None = None


def form_team(
    cluster: Cluster, model: ModelFolder, config: ModelConfig, requests: Sequence[GenerateRequest]
) -> Work[Team]:
    """Compare the machines, choose how they share the work, and tell the others.

    Args:
        cluster: of at least two; this is its rank 0.
        model, config: that all have opened.
        requests: of all videos.

    Raises:
        RequestError: the work cannot be shared as it is asked for.
        ClusterError: a machine differs from the others, or is lost.
    """
    asked, limit = requests[0].parallel, requests[0].memory_limit
    check_mode(asked, cluster.size, config, requests)
    paths = sorted(
        {str(each.path) for one in requests for name in LORA_FIELDS for each in getattr(one, name)}
    )
    facts = gather_facts(cluster, find_facts(model, paths, limit), paths, limit)
    refuse_differences(cluster, facts)
    mode = asked
    if mode == "auto":
        mode = yield from _choose(cluster, model, config, requests, facts)
    check_mode(mode, cluster.size, config, requests)
    names = ", ".join(dict.fromkeys(cluster.hosts))
    words = describe_mode(mode, cluster.size)
    yield Notice(f"{cluster.size} processes on {names} share {words}: --parallel {mode}.")
    assert cluster.channel is not None
    cluster.channel.send_all("mode", mode=mode)
    if mode == "data":
        return Team(mode, dealing=Dealer(cluster))
    exchange = ArrayExchange(cluster)
    return Team(mode, sharing=StepLeader(cluster, make_split(mode, cluster, exchange.traffic), exchange))


def _choose(
    cluster: Cluster,
    model: ModelFolder,
    config: ModelConfig,
    requests: Sequence[GenerateRequest],
    facts: Sequence[MachineFacts],
) -> Work[ParallelMode]:
    """The way that suits; says what is expected of it.

    Raises:
        RequestError: none fits.
    """
    if len(requests) > 1:
        return "data"
    run = settle(requests[0], model, config)
    if run.plan.recipe is None or not run.request.takes_steps:
        return "guidance" if cluster.size % 2 == 0 else "context"  # there is nothing to share
    link = measure_together(cluster)
    expected = expect_modes(run, facts, link)
    if not expected:
        raise RequestError(
            "parallel",
            f"auto: {cluster.size} machines find no way to share this video that fits. Make it smaller, "
            "or start two machines, or one.",
        )
    best = expected[0]
    yield Notice(
        f"A step is expected to be {best.gain:.3g} times as fast as on one machine (predicted: link {link}; "
        f"{min(each.rate for each in facts) / 1e12:.3g} TFLOPS). {_compare(expected[1:])}"
        + ("" if best.gain > 1 else " One machine by itself would be faster.")
    )
    return best.mode


def _compare(others: Sequence[Expected]) -> str:
    told = ", ".join(f"{each.mode} {each.gain:.3g}" for each in others)
    return f"Other ways: {told}." if told else "No other way fits."
