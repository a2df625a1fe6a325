"""Check that this machine computes rightly what the models need: `python -m mlx_video.check_device`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_video.cli import arguments
from mlx_video.cli.console import run_command
from mlx_video.request.kinds import WrittenPath
from mlx_video.request.option import option

if TYPE_CHECKING:
    from mlx_video.events import Event


@dataclass
class CheckOptions:
    """Options of the command."""

    quick: bool = option(
        False, help="only what is checked before a run, about a second", excludes_others=True
    )
    full: bool = option(
        False,
        help="sizes of real videos also on a CPU, which takes long; a GPU gets them anyway",
        excludes_others=True,
    )
    json: WrittenPath | None = option(None, help="write everything as JSON", metavar="FILE")


OPTIONS = (CheckOptions, arguments.CommonOptions)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser(
        "python -m mlx_video.check_device",
        "Run every kind of operation that the models use on the default device, and compare some rows of "
        "each result with float64. The error is that of the worst row: the length of the difference over the "
        "length of the right row. Exit code 1 when something is wrong and cannot be avoided.",
        OPTIONS,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        Exit code: 0 all is right or can be avoided, 1 something is wrong, 2 a wrong option, 130 interrupted.
    """
    return run_command(_check, build_parser().parse_args(argv))


def _check(args: argparse.Namespace) -> Iterator[Event]:
    from mlx_video.runs.device_check import check_device

    return check_device(is_quick=args.quick, is_full=args.full, path=args.json)
