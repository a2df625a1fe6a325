"""Argument types and option groups that both commands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def folder_path(text: str) -> Path:
    """A path with `~` expanded; whether it exists is checked where it is opened.

    Raises:
        argparse.ArgumentTypeError: it begins with the `~` of a user that the system does not know.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} names the home of an unknown user. Write the path from / on, or with a plain ~/."
        ) from error


def parse_guide_scale(text: str) -> float | tuple[float, float]:
    """One number, or two as `low,high`.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor two numbers as low,high")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    from mlx_video import __version__

    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (default: off)")
    parser.add_argument("--quiet", action="store_true", help="show errors only (default: off)")
    parser.add_argument("--version", action="version", version=f"mlx-video {__version__}")
