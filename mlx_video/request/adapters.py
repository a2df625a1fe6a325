"""Adapters as users name them: a path, and how strongly the adapter counts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from mlx_video.addresses import expand_home
from mlx_video.errors import RequestError


def path_or_repository(text: str | Path) -> Path:
    """What a user calls a folder: a path with `~` expanded, or owner/name of a repository on the Hub.

    An address stays one; whoever opens it judges it. A text that begins with a dot is a path, so that
    `./owner/name` never means a repository.

    Raises:
        AddressError: it begins with the `~` of a user that the system does not know, or holds a zero byte.
    """
    path = expand_home(text)
    return Path.cwd() / path if str(text).startswith((".", "~")) else path


def advise_two_strengths(path: str | Path, value: object) -> str:
    """How to give each of two experts its strength, where a value looks like two; "" where it does not.

    Of "0.8;1.0" the first is the high-noise expert's, which serves first; so other tools write it. Where
    nothing tells the order, none is guessed.

    Args:
        path: of the adapter.
        value: what stands in the place of its strength: a text, or several values.
    """
    parts = re.split(r"[;,/]", value) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2 or not all(map(_is_number, parts)):
        return ""
    is_ordered = isinstance(value, str) and ";" in value
    high, low = (str(part).strip() for part in parts) if is_ordered else ("STRENGTH", "STRENGTH")
    return f"Each of two experts takes its own: --lora-high {path} {high} --lora-low {path} {low}"


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class StepStrengths:
    """How strongly an adapter counts in each step.

    Attributes:
        values: of every step; or of the first and the last one, those between on a straight line.
    """

    values: tuple[float, ...]

    @property
    def is_line(self) -> bool:
        """Whether only the ends are given."""
        return len(self.values) == 2

    def at(self, index: int, count: int) -> float:
        """Strength in step `index` of `count`."""
        if not self.is_line:
            return self.values[index]
        start, end = self.values
        return start + (end - start) * index / max(count - 1, 1)

    def __str__(self) -> str:
        """As it stands behind the option."""
        return (":" if self.is_line else ",").join(f"{value:g}" for value in self.values)


def parse_step_strengths(text: str) -> StepStrengths | None:
    """Strengths as `start:end`, or three or more with commas between them; None for another text."""
    parts = text.split(":" if ":" in text else ",")
    if not all(map(_is_number, parts)) or (len(parts) != 2 if ":" in text else len(parts) < 3):
        return None
    return StepStrengths(tuple(map(float, parts)))


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """One adapter, and how strongly it counts.

    Attributes:
        path: its file, or the folder of a PEFT adapter; or owner/name/file in a repository on the Hub.
        strength: 1 for what its authors trained, more or less for more or less of it; negative turns it
            around, 0 leaves it out.
        named: what the user calls it, for records; "" for the path. It stays where `path` becomes that of
            the downloaded file.
        by_step: strengths that change from step to step; `strength` is then the largest.
    """

    path: Path
    strength: float = 1.0
    named: str = field(default="", compare=False)
    by_step: StepStrengths | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, Path):
            raise RequestError("loras", f"{self.path!r}: must be a path (pathlib.Path).")
        is_number = isinstance(self.strength, Real) and not isinstance(self.strength, bool)
        if not (is_number and math.isfinite(self.strength)):
            cure = advise_two_strengths(self.path, self.strength) or "1 is the usual one"
            raise RequestError(
                "loras", f"{self.path} {self.strength!r}: the strength must be a number. {cure}."
            )
        object.__setattr__(self, "named", self.named or str(self.path))

    def __str__(self) -> str:
        """Name and strength, as they stand behind the option."""
        return f"{self.named} {self.strength_text}"

    @property
    def strength_text(self) -> str:
        """The strength as it stands behind the option."""
        return f"{self.strength:g}" if self.by_step is None else str(self.by_step)


def choose_by_step(path: Path, by_step: StepStrengths, named: str) -> LoraChoice:
    """An adapter whose strength changes."""
    return LoraChoice(path, max(by_step.values, key=abs), named, by_step)


def read_adapter_choices(field_name: str, value: Any) -> tuple[LoraChoice, ...]:
    """The adapters that a caller names.

    Args:
        field_name: of the request, for messages.
        value: a list of paths, of (path, strength) or of LoraChoice, or one of these alone; None for no
            adapter.

    Raises:
        RequestError: something else is among them, or a strength is no number.
        AddressError: a path begins with the `~` of an unknown user, or holds a zero byte.
    """
    if value is None:
        return ()
    items = [value] if isinstance(value, str | Path | LoraChoice) else value
    if not isinstance(items, Iterable):
        raise RequestError(field_name, f"{value!r}: must be a list of paths or of (path, strength).")
    return tuple(_read_adapter_choice(field_name, item) for item in items)


def _read_adapter_choice(field_name: str, item: object) -> LoraChoice:
    match item:
        case LoraChoice():
            return item
        case str() | Path():
            return LoraChoice(path_or_repository(item), named=str(item))
        case [str() | Path() as path, float() | int() as strength]:
            try:
                return LoraChoice(path_or_repository(path), strength, str(path))
            except RequestError as error:
                raise RequestError(field_name, error.message) from error
        case [str() | Path() as path, str() as text] if by_step := parse_step_strengths(text):
            return choose_by_step(path_or_repository(path), by_step, str(path))
        case [str() | Path() as path, strength] if cure := advise_two_strengths(path, strength):
            raise RequestError(field_name, f"{path} {strength!r}: the strength must be a number. {cure}.")
    raise RequestError(
        field_name, f"{item!r}: must be a path or (path, strength), in a list: [('style.safetensors', 0.8)]."
    )


def parse_adapter(words: Sequence[str]) -> LoraChoice:
    """An adapter as it stands behind its flag: a path and perhaps a strength.

    Raises:
        ValueError: the strength is no finite number, or there are more words.
    """
    path, *rest = words
    if len(rest) > 1:
        cure = advise_two_strengths(path, rest) or "Repeat the option for each adapter"
        raise ValueError(f"{' '.join(words)!r} is more than a path and a strength. {cure}")
    place = path_or_repository(path)
    if rest and (by_step := parse_step_strengths(rest[0])):
        return choose_by_step(place, by_step, path)
    try:
        return LoraChoice(place, float(rest[0]) if rest else 1.0, named=path)
    except (ValueError, RequestError) as error:
        cure = advise_two_strengths(path, rest[0])
        cure = cure or "Write one such as 1 or 0.8, and repeat the option for each adapter"
        raise ValueError(f"the strength of {path}, {rest[0]!r}, is no number. {cure}") from error
