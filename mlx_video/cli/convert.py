"""python -m mlx_video.convert_wan: an original Wan checkpoint folder into one that MLX reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from mlx_video.cli import arguments
from mlx_video.cli.console import run_command
from mlx_video.errors import RequestError
from mlx_video.events import Event
from mlx_video.request import ConvertRequest, option
from mlx_video.request.kinds import ReadPath

_INSPECTION = "what is it? (writes nothing)"


@dataclass
class InspectOptions:
    """Options that say what a file or folder is, in place of a conversion."""

    inspect: ReadPath | None = option(
        None,
        help="say what a file or folder is, what it lacks and which command takes it; exit code 1 if "
        "something in it is damaged, ambiguous or unknown",
        group=_INSPECTION,
        metavar="PATH",
        default_text="off",
    )
    json: bool = option(False, help="with --inspect: as JSON", group=_INSPECTION)


OPTIONS = (ConvertRequest, InspectOptions, arguments.CommonOptions)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    return arguments.build_parser(
        "python -m mlx_video.convert_wan",
        "Convert a Wan2.1 or Wan2.2 checkpoint for MLX, in a few hundred megabytes of memory. The output "
        "folder appears when it is complete.",
        OPTIONS,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        Exit code: 0 done, 1 a known error, 2 a wrong option, 130 interrupted.
    """
    return run_command(_convert, build_parser().parse_args(argv))


def _convert(args: argparse.Namespace) -> Iterator[Event]:
    if args.inspect is not None:
        _refuse_idle_options(args)
        from mlx_video.inspect.path import report

        return report(args.inspect, as_json=args.json)
    if args.json:
        raise RequestError("json", "counts only with --inspect PATH. Add it, or leave this option out.")
    from mlx_video.convert.convert import convert

    is_quantized = args.quantize or args.quantize_only
    return convert(arguments.request_from(ConvertRequest, args, quantize=is_quantized))


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """Refuse what says how to convert where nothing is converted."""
    defaults = build_parser().parse_args([])
    for name in (field.name for field in fields(ConvertRequest)):
        if getattr(args, name) != getattr(defaults, name):
            raise RequestError(name, "does not count with --inspect PATH, which converts nothing. Drop it.")
