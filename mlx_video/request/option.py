"""One declaration of an option, from which command line, Python, checks and records follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlx_video.addresses import AddressError
from mlx_video.errors import RequestError
from mlx_video.request.choices import Affects, InputKind
from mlx_video.request.kinds import BY_TYPE, SWITCH, Kind

Request = TypeVar("Request")
_KEY = "option"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an option's value must be beyond its kind.

    Attributes:
        holds: whether a value is right.
        must_be: what it must be, for the error.
    """

    holds: Callable[[Any], bool]
    must_be: str


def at_least(lowest: float) -> Bounds:
    """A number of `lowest` or more."""
    return Bounds(lambda value: value >= lowest, f"at least {lowest}")


def between(lowest: float, highest: float, advice: str = "") -> Bounds:
    """A number in a closed range."""
    return Bounds(lambda value: lowest <= value <= highest, f"between {lowest} and {highest}{advice}")


def positive(advice: str = "") -> Bounds:
    """A number above zero, up to a million."""
    return Bounds(lambda value: 0 < value <= 1e6, f"a positive number{advice}, up to 1,000,000")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: a field of a request, a flag of a command, a keyword argument in Python.

    Attributes:
        name: of the field.
        default: of the field; MISSING where a value must be given.
        kind: of the value, from the field's type.
        choices: the only values, where the field's type lists them.
        help: what it is for; code stands in backticks, other options as flags.
        group: heading of --help under which it stands; "" for none.
        default_text: what the default means where its value does not say it.
        check: what its value must be beyond its type.
        metavar: the value's name behind the flag; "" for the flag's own.
        flag_name: of the flag, where it differs from the field's.
        off_help: what the flag `--no-…` is for: of a switch that is on by default, or beside a text's own
            flag to give an empty one.
        command_default: what the command takes in place of the default.
        excludes_others: whether only one of the options of its group that say so may be given.
        input: what it is, where a model is conditioned by it.
        affects: what of a run it decides. Latents: runs that differ in it do not go on from each other's
            state, and it is recorded; video: it is recorded; run: neither.
        only_with: options of which one must be given for it to decide anything.
        decodes: whether it counts where finished latents are decoded.
    """

    name: str
    default: Any
    kind: Kind
    choices: tuple[Any, ...]
    help: str
    group: str = ""
    default_text: str = ""
    check: Bounds | None = None
    metavar: str = ""
    flag_name: str = ""
    off_help: str = ""
    command_default: Any = None
    excludes_others: bool = False
    input: InputKind | None = None
    affects: Affects = "latents"
    only_with: tuple[str, ...] = ()
    decodes: bool = False

    @property
    def flag(self) -> str:
        """The flag, with its dashes; that which turns it off for a switch that is on by default."""
        return self.off_flag if self.is_on_by_default else f"--{self._dashed}"

    @property
    def off_flag(self) -> str:
        """The flag that turns it off, or empties it."""
        return f"--no-{self._dashed}"

    @property
    def _dashed(self) -> str:
        return (self.flag_name or self.name).replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return self.kind is SWITCH

    @property
    def is_on_by_default(self) -> bool:
        """Whether it is a switch that is on unless it is turned off."""
        return self.is_switch and self.default is True

    @property
    def command_value(self) -> Any:
        """What the command takes without its flag."""
        if self.command_default is not None:
            return self.command_default
        return None if self.is_required else self.default

    @property
    def flag_default(self) -> str:
        """What counts without its flag, in words."""
        if self.is_switch:
            return "off"
        value = self.command_value
        return self.default_text or ("none" if value in (None, ()) else str(value))

    @property
    def flag_help(self) -> str:
        """What its flag is for."""
        if self.is_on_by_default:
            return self.off_help or f"turn off: {self.help}"
        return f"{self.help}; repeatable" if self.kind.repeats else self.help

    @property
    def value_name(self) -> str:
        """What the value behind the flag is called in a list of options; "" for none."""
        if self.is_switch or self.choices:
            return ""
        return self.metavar or self._dashed.replace("-", "_").upper()

    @property
    def flag_with_value(self) -> str:
        """The flag as a table shows it: with a name for its value where that says more than the flag."""
        first, *others = self.kind.words or (self.metavar,)
        return " ".join([f"{self.flag} {first}".rstrip(), *(f"[{word}]" for word in others)])

    @property
    def is_required(self) -> bool:
        """Whether a request cannot be made without it."""
        return self.default is MISSING

    def is_recorded(self, request: object) -> bool:
        """Whether it belongs to the record of what a run of this request writes."""
        counts = not self.only_with or any(is_given(getattr(request, name)) for name in self.only_with)
        return self.affects != "run" and counts

    def words(self, value: Any) -> list[str]:
        """A value as it stands on the command line: the flag, and perhaps the value; none for the default."""
        if value == self.default:
            return []
        return [self.flag] if self.is_switch else [self.flag, str(value)]

    def read(self, value: Any) -> Any:
        """What a caller in Python wrote, as a request holds it; what is something else stays for the check.

        Raises:
            RequestError: it is no path, or not the adapters that it should be.
        """
        if value is None and self.default is None:
            return None
        try:
            return self.kind.read(self.name, value)
        except AddressError as error:
            raise RequestError(self.name, str(error)) from error

    def refuse_wrong(self, value: object) -> None:
        """Refuse a value that the option does not take.

        Raises:
            RequestError: it is of another kind, none of the choices, or out of bounds.
        """
        if value is None and self.default is None:
            return
        if self.choices and value not in self.choices:
            listed = ", ".join(map(str, self.choices))
            raise RequestError(self.name, f"{value!r} is not one of {listed}.")
        if not self.kind.holds(value):
            raise RequestError(self.name, f"{value!r}: must be {self.kind.must_be}.")
        if self.check is not None and not self.check.holds(value):
            raise RequestError(self.name, f"{value}: must be {self.check.must_be}.")

    def settle(self, value: Any) -> Any:
        """The value with paths in place of `~` and of addresses of files here.

        Raises:
            RequestError: it is an address that is not read.
        """
        if value is None:
            return None
        try:
            return self.kind.settle(value)
        except AddressError as error:
            raise RequestError(self.name, str(error)) from error


def is_given(value: object) -> bool:
    """Whether a value is more than the absence of one; arrays have no truth value to ask for."""
    return value is not None and not (isinstance(value, tuple) and not value)


def option(default: Any = MISSING, **traits: Any) -> Any:
    """A dataclass field that is an option; `traits` are attributes of :class:`Option`."""
    return field(default=default, metadata={_KEY: traits})


def options_of(declared: type) -> Mapping[str, Option]:
    """The options that a dataclass declares: name of the field → option, in their order."""
    return _options_of(declared)  # type checkers take no dataclass for an argument of a cached function


@cache
def _options_of(declared: type) -> Mapping[str, Option]:
    types = get_type_hints(declared, include_extras=True)
    return MappingProxyType(
        {each.name: _option_of(each, types[each.name]) for each in fields(declared) if _KEY in each.metadata}
    )


def _option_of(declared: Field[Any], type_: Any) -> Option:
    value_type = _without_none(type_)
    choices = get_args(value_type) if get_origin(value_type) is Literal else ()
    if get_origin(value_type) is Annotated:
        (kind,) = value_type.__metadata__
    else:
        kind = BY_TYPE[type(choices[0]) if choices else value_type]
    return Option(declared.name, declared.default, kind, choices, **declared.metadata[_KEY])


def _without_none(type_: Any) -> Any:
    """`X` of `X | None`; any other type itself."""
    if get_origin(type_) not in (Union, UnionType):
        return type_
    (value_type,) = (part for part in get_args(type_) if part is not NoneType)
    return value_type


def check_options(request: object) -> None:
    """Check every option of a request by itself.

    Raises:
        RequestError: a value is wrong.
    """
    for name, declared in options_of(type(request)).items():
        declared.refuse_wrong(getattr(request, name))


def settle_paths(request: object) -> None:
    """Put paths in place of `~` and of addresses of files here.

    Raises:
        RequestError: an address is not read.
    """
    for name, declared in options_of(type(request)).items():
        value = getattr(request, name)
        settled = declared.settle(value)
        if settled is not value and settled != value:
            object.__setattr__(request, name, settled)


def make_request(request_type: type[Request], given: Mapping[str, Any]) -> Request:
    """A request from what a caller in Python wrote: texts become paths where a path is meant.

    Raises:
        RequestError: an option is unknown or has a wrong value.
    """
    declared = options_of(request_type)
    for name in given:
        if name not in declared:
            raise RequestError(name, f"unknown option. Known: {', '.join(sorted(declared))}.")
    return request_type(**{name: declared[name].read(value) for name, value in given.items()})
