"""Load a network, use it, release it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def resident(load: Callable[[], Module]) -> Iterator[Module]:
    """Keep a network in memory for the length of a `with` block, and no longer.

    On leaving, the module is emptied, so its arrays are freed even where a name still refers to it.

    Args:
        load: builds the module and loads its weights.
    """
    module = load()
    try:
        yield module
    finally:
        module.clear()
        release_memory()


def count_bytes(module: nn.Module) -> int:
    """Bytes of a network's parameters."""
    arrays: list[tuple[str, mx.array]] = tree_flatten(module.parameters())  # type: ignore[assignment]
    return sum(array.nbytes for _, array in arrays)


def release_memory() -> None:
    """Give freed buffers back to the system; MLX otherwise keeps them for later arrays."""
    gc.collect()
    mx.clear_cache()
