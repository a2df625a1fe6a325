"""Modules whose weights change in place, straight from a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Generic, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_file import TensorFile
from mlx_video.formats.tensor_info import DTYPES, TensorInfo

Network = TypeVar("Network", bound=nn.Module)

Memory = MutableMapping[tuple[str, tuple[int, ...], str], mx.array]
"""Name of a parameter in its module, its shape and its type in the file → an array for it."""


class RefillableModule(Generic[Network]):
    """A module, and the bytes of its parameters, which a file fills without further memory.

    Only a module whose results have all been computed may be filled anew.

    Args:
        module: gets parameters of the file's types.
        infos: tensors of the file.
        prefix: of the module's tensors among them.
        memory: shared with other modules, of which only the one filled last is in use; takes what it lacks.
            None for memory of its own.

    Raises:
        CheckpointError: a tensor is of a type that MLX does not have.
    """

    def __init__(
        self, module: Network, infos: Mapping[str, TensorInfo], prefix: str, memory: Memory | None = None
    ) -> None:
        memory = {} if memory is None else memory
        parameters: list[tuple[str, mx.array]] = tree_flatten(module.parameters())  # type: ignore[assignment]
        arrays = {
            name: _find_array(memory, name, old.shape, infos[prefix + name]) for name, old in parameters
        }
        mx.eval(arrays)
        module.update(tree_unflatten(list(arrays.items())))
        self.module = module
        self._bytes = {name: _bytes_of(array) for name, array in arrays.items()}

    def fill(self, source: TensorFile, prefix: str) -> None:
        """Read the tensors of this prefix."""
        for name, memory in self._bytes.items():
            source.read_into(prefix + name, memory)

    def release(self) -> None:
        """Free the memory."""
        self._bytes.clear()
        self.module.clear()


def _find_array(memory: Memory, name: str, shape: tuple[int, ...], info: TensorInfo) -> mx.array:
    key = name, shape, info.dtype
    if key not in memory:
        memory[key] = mx.zeros(shape, _dtype_of(info))
    return memory[key]


def _dtype_of(info: TensorInfo) -> mx.Dtype:
    dtype = DTYPES[info.dtype].mlx
    if dtype is None:
        raise CheckpointError(
            f"{info.name}: is stored as {info.dtype}, which cannot be streamed. Convert the model again, or "
            "run it with --stream off."
        )
    return dtype


def _bytes_of(array: mx.array) -> memoryview:
    """The memory of an array that has been computed: what is written there is the array's."""
    return np.array(array.view(mx.uint8), copy=False).reshape(-1).data


def copy_module(module: Network) -> Network:
    """A copy that may be given other layers and arrays; until then it shares the arrays."""
    copied = copy.copy(module)
    for name, child in module.items():
        if isinstance(child, nn.Module):
            copied[name] = copy_module(child)
        elif isinstance(child, list):
            copied[name] = [copy_module(one) if isinstance(one, nn.Module) else one for one in child]
    return copied
