"""Check machines that work together: `mlx.launch … -- python -m mlx_video.check_cluster`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.clustered import run_with_others
from mlx_video.cli.console import run_command
from mlx_video.distributed.launch import is_launched
from mlx_video.errors import ClusterError
from mlx_video.request.cluster_check import ClusterCheckRequest

if TYPE_CHECKING:
    from mlx_video.config import ModelConfig
    from mlx_video.distributed.cluster import Cluster
    from mlx_video.events import Event
    from mlx_video.layouts.model_folder import ModelFolder

OPTIONS = (ClusterCheckRequest, arguments.CommonOptions)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser(
        "python -m mlx_video.check_cluster",
        "Tell of the machines that mlx.launch has started this command on: their chips, memory and versions, "
        "how fast they reach each other, and what they would gain together, which is predicted.",
        OPTIONS,
    )


def run_events(args: argparse.Namespace, cluster: Cluster | None = None) -> Iterator[Event]:
    """Check the machines, as rank 0.

    Raises:
        ClusterError: there is one machine alone, or as `runs.cluster.check.check_cluster`.
    """
    from mlx_video.runs.cluster.check import check_cluster, model_size, published_sizes

    if cluster is None:
        raise ClusterError(
            "There is one machine alone. Start the command on several: mlx.launch --hostfile macs.json -- "
            "python -m mlx_video.check_cluster."
        )
    asked = arguments.request_from(ClusterCheckRequest, args)
    size = asked.width, asked.height, asked.num_frames
    opened = _open(args)
    if opened is None:
        yield from check_cluster(cluster, None, published_sizes(*size))
    else:
        steps = {opened[0].path.name: model_size(*opened, *size)}
        yield from check_cluster(cluster, opened[0], steps)


def _open(args: argparse.Namespace) -> tuple[ModelFolder, ModelConfig] | None:
    from mlx_video.events import finish
    from mlx_video.loading.components import open_named_model
    from mlx_video.loading.model_parts import NO_PARTS

    if args.folder is None:
        return None
    return finish(open_named_model(args.folder, None, NO_PARTS), lambda event: None)


def serve(args: argparse.Namespace, cluster: Cluster) -> None:
    """Take part in the check as another than rank 0."""
    from mlx_video.runs.cluster.check import answer_check

    opened = _open(args)
    answer_check(cluster, opened and opened[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    args = build_parser().parse_args(argv)
    if is_launched():
        return run_with_others(args, run_events, serve)
    return run_command(run_events, args)
