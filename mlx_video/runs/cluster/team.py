"""The machines of a command, once they are known to compute the same, and how they share its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_video.config import ModelConfig
from mlx_video.distributed.arrays import ArrayExchange
from mlx_video.distributed.cluster import Cluster
from mlx_video.events import Notice, Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request import LORA_FIELDS, GenerateRequest
from mlx_video.request.choices import ParallelMode
from mlx_video.runs.batch.maker import Dealing
from mlx_video.runs.cluster.dealer import Dealer
from mlx_video.runs.cluster.leader import StepLeader
from mlx_video.runs.cluster.machine_facts import find_facts, gather_facts, refuse_differences
from mlx_video.runs.cluster.modes import check_mode, describe_mode, make_split
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
    assert cluster.channel is not None
    asked = requests[0].parallel
    check_mode(asked, cluster.size, config, requests)
    paths = sorted(
        {str(each.path) for one in requests for name in LORA_FIELDS for each in getattr(one, name)}
    )
    facts = gather_facts(cluster, find_facts(model, paths), paths)
    refuse_differences(cluster, facts)
    mode = asked if asked != "auto" else "data" if len(requests) > 1 else "guidance"
    check_mode(mode, cluster.size, config, requests)
    names = ", ".join(dict.fromkeys(cluster.hosts))
    words = describe_mode(mode, cluster.size)
    yield Notice(f"{cluster.size} processes on {names} share {words}: --parallel {mode}.")
    cluster.channel.send_all("mode", mode=mode)
    if mode == "data":
        return Team(mode, dealing=Dealer(cluster))
    exchange = ArrayExchange(cluster)
    return Team(mode, sharing=StepLeader(cluster, make_split(mode, cluster, exchange.traffic), exchange))
