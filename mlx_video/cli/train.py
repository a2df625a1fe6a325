"""Teach a model something new from clips: `python -m mlx_video.train_wan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.clustered import refuse_unnamed_model, run_with_others
from mlx_video.cli.console import run_command
from mlx_video.cli.named_model import open_model_of
from mlx_video.distributed.launch import is_launched
from mlx_video.events import finish
from mlx_video.request import ModelRequest, option
from mlx_video.request.dataset import DatasetOptions
from mlx_video.request.train import TrainRequest

if TYPE_CHECKING:
    from mlx_video.distributed.cluster import Cluster
    from mlx_video.events import Event


@dataclass
class TrainingPlanOptions:
    """Options that ask for the plan of a training, in place of it."""

    plan: bool = option(
        False,
        help="print what the training would keep in memory; encodes and trains nothing",
        group="memory",
    )


OPTIONS = (ModelRequest, DatasetOptions, TrainRequest, TrainingPlanOptions, arguments.CommonOptions)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser("python -m mlx_video.train_wan", __doc__, OPTIONS)


def run_events(args: argparse.Namespace, cluster: Cluster | None = None) -> Iterator[Event]:
    """Open the model, encode what of the dataset is not in its cache yet, and train.

    Args:
        args: parsed.
        cluster: whose rank 0 this process is; None for a process that works alone.
    """
    from mlx_video.training.cluster.leader import TrainingLeader
    from mlx_video.training.data.input_names import read_extra_inputs
    from mlx_video.training.train_on_dataset import WholeTraining, describe_plan, train_on_dataset

    request = arguments.request_from(TrainRequest, args)
    options = arguments.request_from(DatasetOptions, args)
    inputs = read_extra_inputs(options.extra_inputs) or ()
    if cluster is not None:
        refuse_unnamed_model(args)
    model, config = yield from open_model_of(args, inputs)
    leader = None if cluster is None else TrainingLeader(cluster)
    whole = WholeTraining(request, options, model, config, leader)
    yield from describe_plan(whole) if args.plan else train_on_dataset(whole)


def serve(args: argparse.Namespace, cluster: Cluster) -> None:
    """Take part in a training as another than rank 0."""
    from mlx_video.training.cluster.follower import TrainingFollower
    from mlx_video.training.plan import plan_training

    refuse_unnamed_model(args)
    model, config = finish(open_model_of(args, ()), lambda event: None)
    plan = plan_training(arguments.request_from(TrainRequest, args), model, config)
    TrainingFollower(cluster, plan).serve()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    args = build_parser().parse_args(argv)
    if is_launched():
        return run_with_others(args, run_events, serve)
    return run_command(run_events, args)
