"""Declared options as Python shows them: signatures of functions, and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal, TypeVar

from mlx_video.request.option import Option, options_of

Function = TypeVar("Function", bound=Callable[..., Any])
Declaring = TypeVar("Declaring", bound=type)

_FLAG = re.compile(r"(?<![\w`])--[a-z][a-z0-9-]*")
_PLACEHOLDER = re.compile(r"^(?P<indent> *)\*\*options:.*\n", re.MULTILINE)
_WIDTH = 110


def documented(declaring: Declaring) -> Declaring:
    """List the options of a dataclass in its docstring; a decorator."""
    lines = _argument_lines(options_of(declaring), indent=" " * 8)
    declaring.__doc__ = f"{declaring.__doc__}\n\n    Attributes:\n{lines}    "
    return declaring


def takes_options(request: type, names: Iterable[str] | None = None) -> Callable[[Function], Function]:
    """Give a function that takes `**options` the signature and docstring that name each; a decorator.

    The docstring holds a line `**options: …` among its arguments, in whose place they are listed, those too
    that the function names itself.

    Args:
        request: declares the options.
        names: those that the function takes; None for all.
    """
    declared = {name: options_of(request)[name] for name in names or options_of(request)}

    def decorate(function: Function) -> Function:
        function.__signature__ = _spell_out(  # type: ignore[attr-defined]
            inspect.signature(function), declared
        )
        if function.__doc__:
            function.__doc__ = _PLACEHOLDER.sub(
                lambda found: _argument_lines(declared, found["indent"]), function.__doc__
            )
        return function

    return decorate


def annotation(declared: Option) -> Any:
    """Type of what callers in Python may write for an option."""
    type_: Any = Literal[declared.choices] if declared.choices else declared.kind.python_type
    if declared.default is not None:
        return type_
    return f"{type_} | None" if isinstance(type_, str) else type_ | None


def python_help(declared: Option) -> str:
    """What an option is for, in the words of Python."""
    parts = [name_fields(declared.help), declared.kind.python_words, _default_words(declared)]
    return "; ".join(filter(None, parts)) + "."


def _default_words(declared: Option) -> str:
    """What counts where the option is left out; "" where its help says it, or a value must be given."""
    if declared.is_required or declared.default == ():
        return ""
    if declared.default is None:
        return f"None for {name_fields(declared.default_text)}" if declared.default_text else "default None"
    value = str(declared.default) if isinstance(declared.default, Path) else declared.default
    return f"default {value!r}"


def name_fields(text: str) -> str:
    """A text of the command line with fields in place of flags."""
    return _FLAG.sub(lambda found: f"`{found[0].lstrip('-').replace('-', '_')}`", text)


def mark_flags(text: str) -> str:
    """A text of the command line with its flags in backticks."""
    return _FLAG.sub(r"`\g<0>`", text)


def _spell_out(signature: inspect.Signature, declared: Mapping[str, Option]) -> inspect.Signature:
    named = [each for each in signature.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    taken = {each.name for each in named}
    others = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation(each))
        for name, each in declared.items()
        if name not in taken
    ]
    return signature.replace(parameters=[*named, *others])


def _argument_lines(declared: Mapping[str, Option], indent: str) -> str:
    """One entry of a docstring for each option, wrapped."""
    return "".join(
        textwrap.fill(
            f"{name}: {python_help(each)}",
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=f"{indent}    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
        for name, each in declared.items()
    )
