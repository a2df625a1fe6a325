"""Declared options as flags of a command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from mlx_video import __version__
from mlx_video.cli.console import EXIT_USAGE
from mlx_video.request.option import Option, option, options_of

Request = TypeVar("Request")

_PROGRESS = "progress"


@dataclass
class CommonOptions:
    """Options of every command."""

    debug: bool = option(False, help="show the traceback of an error")
    quiet: bool = option(False, help="show errors only", group=_PROGRESS, excludes_others=True)
    json_events: bool = option(
        False,
        help="report everything on stderr as JSON, one object a line, for programs",
        group=_PROGRESS,
        excludes_others=True,
    )
    notify: str | None = option(
        None,
        help="run a command of the shell at the end, whatever that is; `$MLX_VIDEO_STATUS` is success, error "
        "or interrupted, `$MLX_VIDEO_OUTPUT` the file",
        group=_PROGRESS,
        metavar="COMMAND",
    )
    bell: bool = option(False, help="ring the terminal's bell at the end", group=_PROGRESS)
    version: bool = option(False, help="print the version")


class _Absent(tuple[Any, ...]):
    """Stands for an option that is not given; flags that repeat add to it."""


class CommandParser(argparse.ArgumentParser):
    """A parser that answers a wrong option with one line; the list of all options is for --help.

    What it parses has `given` besides: the names of the options that stand on the command line.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, and note which options are given."""
        defaults: dict[str, Any] = {}
        for action in self._actions:
            if action.default is not argparse.SUPPRESS:
                defaults.setdefault(action.dest, action.default)
        before = {} if namespace is None else vars(namespace)
        marked = argparse.Namespace(**{name: _Absent() for name in defaults} | before)
        found, rest = super().parse_known_args(args, marked)
        # What a repeated flag has added to is a tuple of another type.
        found.given = frozenset(name for name in defaults if not isinstance(getattr(found, name), _Absent))
        for name in defaults.keys() - found.given:
            setattr(found, name, defaults[name])
        return found, rest

    def error(self, message: str) -> NoReturn:
        """End the command with exit code 2."""
        line = " ".join(message.splitlines()).rstrip(".")
        self.exit(EXIT_USAGE, f"error: {line}. --help lists all options.\n")


def build_parser(prog: str, description: str | None, declared: Iterable[type]) -> argparse.ArgumentParser:
    """The parser of a command.

    Args:
        prog: how the command is called.
        description: what it does.
        declared: dataclasses of its options.
    """
    parser = CommandParser(prog=prog, description=description)
    add_options(parser, declared)
    return parser


def add_options(parser: argparse.ArgumentParser, declared: Iterable[type]) -> None:
    """Give a parser the options that dataclasses declare."""
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    exclusive: dict[str, argparse._ActionsContainer] = {}
    for each in (each for one in declared for each in options_of(one).values()):
        if each.group not in groups:
            groups[each.group] = parser.add_argument_group(each.group)
        group = groups[each.group]
        if each.excludes_others and each.group not in exclusive:
            exclusive[each.group] = group.add_mutually_exclusive_group()
        _add_option(exclusive[each.group] if each.excludes_others else group, each)


def request_from(request_type: type[Request], args: argparse.Namespace, **values: Any) -> Request:
    """The request that parsed options describe.

    Args:
        request_type: declares them.
        args: from a parser that has them.
        values: fields that are something else than what was parsed.

    Raises:
        RequestError: a value is out of range, or does not go with another.
    """
    parsed = {name: getattr(args, name) for name in options_of(request_type)}
    return request_type(**parsed | values)


def _add_option(group: argparse._ActionsContainer, declared: Option) -> None:
    texts: dict[str, Any] = {
        "dest": declared.name,
        "help": _help(f"{declared.flag_help} (default: {declared.flag_default})"),
    }
    if declared.name == "version":
        group.add_argument(
            declared.flag, action="version", version=f"mlx-video {__version__}", help=texts["help"]
        )
    elif declared.is_switch:
        group.add_argument(
            declared.flag, action="store_false" if declared.is_on_by_default else "store_true", **texts
        )
    elif declared.kind.repeats:
        group.add_argument(
            declared.flag,
            nargs="+" if len(declared.kind.words) > 1 else 1,
            action=_append_with(declared.kind.parse),
            default=declared.command_value,
            metavar=declared.kind.words,
            **texts,
        )
    else:
        _add_value(group, declared, texts)


def _add_value(group: argparse._ActionsContainer, declared: Option, texts: dict[str, Any]) -> None:
    if declared.off_help:
        group = group.add_mutually_exclusive_group()
    group.add_argument(
        declared.flag,
        type=reader(declared.kind.parse),
        choices=declared.choices or None,
        default=declared.command_value,
        metavar=declared.value_name or None,
        **texts,
    )
    if declared.off_help:
        group.add_argument(
            declared.off_flag,
            action="store_const",
            const="",
            dest=declared.name,
            help=_help(f"{declared.off_help} (default: off)"),
        )


def _help(text: str) -> str:
    """A declared help as the terminal shows it."""
    return text.replace("`", "").replace("%", "%%")


def reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader of one text whose message argparse shows as it is."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _append_with(parse: Callable[[Sequence[str]], Any]) -> type[argparse.Action]:
    """An action that adds what one flag names to what earlier flags named."""

    class Append(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: str | Sequence[Any] | None,
            option_string: str | None = None,
        ) -> None:
            try:
                value = parse([*(values or ())])
            except ValueError as error:
                raise argparse.ArgumentError(self, str(error)) from error
            setattr(namespace, self.dest, (*getattr(namespace, self.dest), value))

    return Append
