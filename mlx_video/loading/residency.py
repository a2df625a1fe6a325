"""Load a component, use it, release it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

Component = TypeVar("Component", bound=nn.Module)


@contextmanager
def resident(load: Callable[[], Component]) -> Iterator[Component]:
    """Keep a component in memory for the length of a `with` block, and no longer.

    On leaving, the module is emptied, so its arrays are freed even where a name still refers to it.

    Args:
        load: builds the module and loads its weights.
    """
    component = load()
    try:
        yield component
    finally:
        component.clear()
        release_memory()


def count_bytes(component: nn.Module) -> int:
    """Bytes of a component's parameters."""
    arrays: list[tuple[str, mx.array]] = tree_flatten(component.parameters())  # type: ignore[assignment]
    return sum(array.nbytes for _, array in arrays)


def release_memory() -> None:
    """Give freed buffers back to the system; MLX otherwise keeps them for later arrays."""
    gc.collect()
    mx.clear_cache()
