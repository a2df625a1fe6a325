"""Teach a model something new from clips: `python -m mlx_video.train_wan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.console import run_command
from mlx_video.cli.named_model import open_model_of
from mlx_video.distributed.launch import is_launched, read_launch
from mlx_video.errors import ClusterError
from mlx_video.request import ModelRequest, option
from mlx_video.request.dataset import DatasetOptions
from mlx_video.request.train import TrainRequest

if TYPE_CHECKING:
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


def run_events(args: argparse.Namespace) -> Iterator[Event]:
    """Open the model, encode what of the dataset is not in its cache yet, and train.

    Raises:
        ClusterError: the command was started on several machines.
    """
    from mlx_video.training.data.input_names import read_extra_inputs
    from mlx_video.training.train_on_dataset import WholeTraining, describe_plan, train_on_dataset

    _refuse_several_machines()
    request = arguments.request_from(TrainRequest, args)
    options = arguments.request_from(DatasetOptions, args)
    inputs = read_extra_inputs(options.extra_inputs) or ()
    model, config = yield from open_model_of(args, inputs)
    whole = WholeTraining(request, options, model, config)
    yield from describe_plan(whole) if args.plan else train_on_dataset(whole)


def _refuse_several_machines() -> None:
    """Refuse what every process would do for itself, all into the same files."""
    if not is_launched():
        return
    launch = read_launch()
    if launch is None or launch.size > 1:
        raise ClusterError(
            "train_wan works on one machine, and mlx.launch has started several. Start it without "
            "mlx.launch, on one of them."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(run_events, build_parser().parse_args(argv))
