"""What an add-on makes once of each transformer, and lets go when the transformer goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from mlx_video.models.video_transformer import VideoTransformer

Value = TypeVar("Value")


class MadeOnce(Generic[Value]):
    """Values by transformer and key: the same in all passes and steps."""

    def __init__(self) -> None:
        self._made: list[tuple[weakref.ref[VideoTransformer], Hashable, Value]] = []

    def take(self, transformer: VideoTransformer, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a transformer, made now if it is asked for the first time."""
        for reference, known, value in self._made:
            if reference() is transformer and known == key:
                return value
        value = make()
        self._made.append((weakref.ref(transformer, _forgetting(self)), key, value))
        return value

    def forget_gone(self) -> None:
        """Let the values go whose transformer is gone."""
        self._made = [made for made in self._made if made[0]() is not None]


def _forgetting(values: MadeOnce[Value]) -> Callable[[object], None]:
    """A callback for when a transformer goes; it does not keep the values."""
    owner = weakref.ref(values)

    def forget(gone: object) -> None:
        values = owner()
        if values is not None:
            values.forget_gone()

    return forget
