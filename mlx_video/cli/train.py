"""Teach a model something new from clips: `python -m mlx_video.train_wan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.console import run_command
from mlx_video.cli.named_model import open_model_of
from mlx_video.request import ModelRequest, option
from mlx_video.request.dataset import DatasetOptions
from mlx_video.request.option import check_options, settle_paths
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
    """Open the model, encode what of the dataset is not in its cache yet, and train."""
    from mlx_video.training.data import cache_dataset, read_dataset
    from mlx_video.training.data.input_names import read_extra_inputs
    from mlx_video.training.plan import plan_training
    from mlx_video.training.train import check_start, train

    request = arguments.request_from(TrainRequest, args)
    options = arguments.request_from(DatasetOptions, args)
    check_options(options)
    settle_paths(options)
    inputs = read_extra_inputs(options.extra_inputs) or ()
    model, config = yield from open_model_of(args, inputs)
    dataset = read_dataset(options, config)
    plan = plan_training(request, model, config)
    if not options.cache_only:
        check_start(plan)
    examples = yield from cache_dataset(
        dataset,
        model,
        config,
        seed=request.seed,
        extra_inputs=options.extra_inputs,
        memory_limit=request.memory_limit,
    )
    if not options.cache_only:
        yield from train(plan, examples)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(run_events, build_parser().parse_args(argv))
