"""Values as JSON with the arrays beside them, so that another process can hold the same."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

_PACKAGE = "mlx_video."
_KIND = "kind"

Instead = Callable[[object], object]
"""What goes in place of a value that is none of those that travel; raises ValueError for nothing."""


def refuse(value: object) -> object:
    """Refuse a value that does not travel."""
    raise ValueError(f"{type(value).__name__} does not go to another process")


def pack(value: Any, arrays: list[mx.array], instead: Instead = refuse) -> Any:
    """A value as JSON.

    Args:
        value: of numbers, texts, paths, arrays of MLX and NumPy, tuples, lists, mappings, and dataclasses of
            this package.
        arrays: gets the arrays, which the JSON refers to by number.
        instead: what goes in place of anything else.

    Raises:
        ValueError: something does not travel.
    """

    def again(part: Any) -> Any:
        return pack(part, arrays, instead)

    match value:
        case None | bool() | int() | float() | str():
            return value
        case mx.array():
            arrays.append(value)
            return {_KIND: "array", "number": len(arrays) - 1}
        case np.ndarray():
            arrays.append(mx.array(np.frombuffer(value.tobytes(), np.uint8)))
            shape, dtype = list(value.shape), value.dtype.str
            return {_KIND: "numbers", "number": len(arrays) - 1, "shape": shape, "dtype": dtype}
        case Path():
            return {_KIND: "path", "text": str(value)}
        case tuple():
            return {_KIND: "tuple", "parts": [again(part) for part in value]}
        case list():
            return [again(part) for part in value]
        case Mapping():
            return {_KIND: "mapping", "parts": [[again(key), again(part)] for key, part in value.items()]}
    if is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith(_PACKAGE):
        place = [type(value).__module__, type(value).__qualname__]
        parts = {each.name: again(getattr(value, each.name)) for each in fields(value) if each.init}
        return {_KIND: "record", "place": place, "parts": parts}
    return again(instead(value))


def unpack(value: Any, arrays: Sequence[mx.array]) -> Any:
    """The value that :func:`pack` was given.

    Raises:
        ValueError: it is nothing that `pack` makes.
    """
    if isinstance(value, list):
        return [unpack(part, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    match value[_KIND]:
        case "array":
            return arrays[value["number"]]
        case "numbers":
            return np.array(arrays[value["number"]]).view(value["dtype"]).reshape(value["shape"])
        case "path":
            return Path(value["text"])
        case "tuple":
            return tuple(unpack(part, arrays) for part in value["parts"])
        case "mapping":
            return {unpack(key, arrays): unpack(part, arrays) for key, part in value["parts"]}
        case "record":
            parts = {name: unpack(part, arrays) for name, part in value["parts"].items()}
            return _record_type(*value["place"])(**parts)
    raise ValueError(f"{value[_KIND]!r} is no kind of value")


def _record_type(module: str, name: str) -> type:
    found = getattr(importlib.import_module(module), name) if module.startswith(_PACKAGE) else None
    if not isinstance(found, type) or not is_dataclass(found):
        raise ValueError(f"{module}.{name} is no record of this package")
    return found
