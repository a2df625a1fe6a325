"""Argument types and option groups that both commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mlx_video.addresses import AddressError, expand_home
from mlx_video.cli.console import EXIT_USAGE
from mlx_video.errors import RequestError
from mlx_video.request import LoraChoice, advise_two_strengths, named_place


class CommandParser(argparse.ArgumentParser):
    """A parser that answers a wrong option with one line; the list of all options is for --help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Every `type=int` and `type=float` of the command, also in groups, with a message of our own.
        self.register("type", int, whole_number)
        self.register("type", float, any_number)

    def error(self, message: str) -> NoReturn:
        """End the command with exit code 2."""
        line = " ".join(message.splitlines()).rstrip(".")
        self.exit(EXIT_USAGE, f"error: {line}. --help lists all options.\n")


def whole_number(text: str) -> int:
    """An integer.

    Raises:
        argparse.ArgumentTypeError: the text is none.
    """
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, such as 4") from error


def any_number(text: str) -> float:
    """An integer or a decimal fraction.

    Raises:
        argparse.ArgumentTypeError: the text is neither.
    """
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, such as 0.5") from error


def folder_path(text: str) -> Path:
    """A path with `~` expanded; whether it exists is checked where it is opened.

    Raises:
        argparse.ArgumentTypeError: it begins with the `~` of a user that the system does not know.
    """
    try:
        return expand_home(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def place_or_repository(text: str) -> Path:
    """A path here, or owner/name of a repository on the Hub, perhaps with a path in it.

    Raises:
        argparse.ArgumentTypeError: it begins with the `~` of a user that the system does not know.
    """
    folder_path(text)
    return named_place(text)


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


class AppendLora(argparse.Action):
    """Adds one adapter, `PATH STRENGTH` or `PATH` alone, to those that earlier flags named."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[str] | None,
        option_string: str | None = None,
    ) -> None:
        """Take one flag's values.

        Raises:
            argparse.ArgumentError: they are no path and finite number.
        """
        try:
            choice = parse_lora(values or ())
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), choice))


def parse_lora(words: Sequence[str]) -> LoraChoice:
    """An adapter as it stands behind its flag: a path and perhaps a strength.

    Raises:
        argparse.ArgumentTypeError: the strength is no finite number, or there are more words.
    """
    path, *rest = words
    if len(rest) > 1:
        cure = advise_two_strengths(path, rest) or "Repeat the option for each adapter"
        raise argparse.ArgumentTypeError(f"{' '.join(words)!r} is more than a path and a strength. {cure}")
    try:
        strength = float(rest[0]) if rest else 1.0
        return LoraChoice(place_or_repository(path), strength, named=path)
    except (ValueError, RequestError) as error:
        cure = advise_two_strengths(path, rest[0])
        cure = cure or "Write one such as 1 or 0.8, and repeat the option for each adapter"
        raise argparse.ArgumentTypeError(
            f"the strength of {path}, {rest[0]!r}, is no number. {cure}"
        ) from error


def add_lora_options(group: argparse._ArgumentGroup) -> None:
    """Options that name adapters."""
    for flag, field, which in (
        ("--lora", "loras", "every transformer"),
        ("--lora-high", "loras_high", "the high-noise expert alone"),
        ("--lora-low", "loras_low", "the low-noise expert alone"),
    ):
        group.add_argument(
            flag,
            nargs="+",
            action=AppendLora,
            dest=field,
            default=(),
            metavar=("PATH", "STRENGTH"),
            help=f"adapter for {which}, a file or owner/name/file on the Hub, and its strength, 1 if left "
            "out; repeatable (default: none)",
        )
    group.add_argument(
        "--strict-lora",
        action="store_true",
        help="refuse an adapter that changes nothing, or of which a part does not fit the model, instead of "
        "saying so (default: off)",
    )


def add_revision_option(parser: argparse._ActionsContainer) -> None:
    """The option that goes with a repository on the Hub."""
    parser.add_argument(
        "--revision",
        metavar="NAME",
        help="branch, tag or commit of the repository on the Hub (default: its main branch)",
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    from mlx_video import __version__

    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (default: off)")
    parser.add_argument("--quiet", action="store_true", help="show errors only (default: off)")
    parser.add_argument("--version", action="version", version=f"mlx-video {__version__}")
