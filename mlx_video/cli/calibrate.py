"""Measure what MagCache needs to know of a model: `python -m mlx_video.calibrate`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.console import run_command
from mlx_video.cli.named_model import open_model_of
from mlx_video.errors import RequestError
from mlx_video.request import ModelRequest
from mlx_video.request.calibrate import CalibrateRequest

if TYPE_CHECKING:
    from mlx_video.events import Event

OPTIONS = (ModelRequest, CalibrateRequest, arguments.CommonOptions)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser(
        "python -m mlx_video.calibrate",
        "Take every step of a run for each prompt and measure how what the blocks add changes from step to "
        "step. The ratios are written beside the model, where --step-cache magcache finds them.",
        OPTIONS,
    )


def run_events(args: argparse.Namespace) -> Iterator[Event]:
    """Open the model, then measure it."""
    from mlx_video.runs.calibrate import calibrate

    if args.prompts is None:
        raise RequestError("prompts", "missing: give a text file with a prompt on each line.")
    request = arguments.request_from(CalibrateRequest, args)
    model, config = yield from open_model_of(args, ())
    yield from calibrate(request, model, config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(run_events, build_parser().parse_args(argv))
