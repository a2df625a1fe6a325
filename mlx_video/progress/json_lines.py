"""Events as JSON, one object a line, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from mlx_video.events import Event
from mlx_video.progress.display import Display, Ending

VERSION = 1
"""Grows when a name or a meaning changes; what is only added leaves it as it is."""

COMMON_KEYS = ("version", "event", "elapsed_seconds", "left_seconds")


class JsonLines(Display):
    """Writes every event, and how it ended, as one JSON object a line."""

    tells_errors = True

    def tell(self, event: Event) -> None:
        """Write one event."""
        self._write(event)

    def tell_ending(self, ending: Ending) -> None:
        """Write the last line."""
        self._write(ending)

    def _write(self, happened: Event | Ending) -> None:
        timing = self.tally.timing()
        left = timing.left.seconds if timing.left else None
        common = dict(zip(COMMON_KEYS, (VERSION, type(happened).__name__, timing.elapsed, left), strict=True))
        self.stream.write(f"{json.dumps(to_json({**common, **to_json(happened)}), allow_nan=False)}\n")
        self.stream.flush()


def to_json(value: Any) -> Any:
    """A value as JSON has it.

    A dataclass is an object of its fields, a tuple an array, a path its text; an array of numbers is told by
    its shape and its type, an error by its type and its message, and what is not finite is null.

    Raises:
        TypeError: there is no rule for it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [*map(to_json, value)]
    if is_dataclass(value):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return {"shape": [*value.shape], "dtype": str(value.dtype).removeprefix("mlx.core.")}
    raise TypeError(f"no JSON for {type(value).__name__}")
