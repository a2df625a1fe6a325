"""What sampling remembers from step to step, gathered so that a run can be kept and gone on with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import mlx.core as mx


class Elsewhere(Protocol):
    """Something that remembers arrays, and need not be in this process."""

    def state(self) -> dict[str, mx.array]:
        """Arrays that the next step needs, by names of its own; empty where it needs none."""


class Resumable(Elsewhere, Protocol):
    """Something that remembers arrays: a solver, a step cache, the source of fresh noise."""

    def restore(self, state: dict[str, mx.array]) -> None:
        """Go on from what :meth:`state` returned, bit for bit.

        Raises:
            ValueError: the state is of something else.
        """


Part = TypeVar("Part", bound=Resumable)


class KeptArrays(dict[str, mx.array]):
    """Arrays by name that are kept from step to step."""

    def state(self) -> dict[str, mx.array]:
        """See :meth:`Resumable.state`."""
        return dict(self)

    def restore(self, state: dict[str, mx.array]) -> None:
        """See :meth:`Resumable.restore`; any state is taken."""
        self.update(state)


class SamplerState:
    """The parts that remember, each under a name, in folders by dots.

    Args:
        restored: arrays of an earlier run, by "name of the part.name of the array". A part takes its own when
            it is added, which may be late in the run.
    """

    def __init__(self, restored: Mapping[str, mx.array] | None = None) -> None:
        self._restored = dict(restored or {})
        self._parts: dict[str, Elsewhere] = {}
        self._prefix = ""

    def within(self, folder: str) -> SamplerState:
        """The parts of a folder, kept here."""
        inner = copy.copy(self)  # shares both tables
        inner._prefix = f"{self._prefix}{folder}."
        return inner

    def add(self, name: str, part: Part) -> Part:
        """Keep a part's state from now on, and give it what an earlier run left under its name.

        Returns:
            The part.

        Raises:
            ValueError: what was left there is of something else.
        """
        name = self._prefix + name
        self._parts[name] = part
        left = {key: self._restored.pop(key) for key in _within(f"{name}.", self._restored)}
        if left:
            part.restore({key.removeprefix(f"{name}."): array for key, array in left.items()})
        return part

    def add_elsewhere(self, part: Elsewhere) -> None:
        """Keep what parts of this folder remember that are in other processes, under names as if here."""
        self._parts[self._prefix] = part

    def hand_over(self, is_elsewhere: Callable[[str], bool]) -> dict[str, mx.array]:
        """Let go what an earlier run left here for parts that are in other processes.

        Args:
            is_elsewhere: tells it from the name, in this folder, of an array.
        """
        found = self.peek(is_elsewhere)
        for name in found:
            del self._restored[self._prefix + name]
        return found

    def peek(self, is_asked_for: Callable[[str], bool]) -> dict[str, mx.array]:
        """What an earlier run left here for parts that were not added yet, by its name in this folder."""
        names = [key.removeprefix(self._prefix) for key in _within(self._prefix, self._restored)]
        return {name: self._restored[self._prefix + name] for name in names if is_asked_for(name)}

    def clear(self) -> None:
        """Forget the parts that are kept here, and what an earlier run left for them."""
        tables: tuple[dict[str, Any], ...] = (self._parts, self._restored)
        for table in tables:
            for key in _within(self._prefix, table):
                del table[key]

    def arrays(self) -> dict[str, mx.array]:
        """Arrays of all parts, and those whose part has not been added yet."""
        states = {name: part.state() for name, part in self._parts.items()}
        now = {_join(name, key): array for name, state in states.items() for key, array in state.items()}
        return self._restored | now


def _join(name: str, key: str) -> str:
    """The name of a part's array; a part that is a whole folder ends in a dot."""
    return name + key if name.endswith(".") else f"{name}.{key}"


def _within(prefix: str, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key.startswith(prefix)]
