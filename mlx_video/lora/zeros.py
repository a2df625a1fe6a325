"""Which parts of an adapter change nothing: told by reading no more of it than that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.changes import Change
from mlx_video.lora.layers import LayerChanges
from mlx_video.weights.names.adapter_names import PRODUCT_ROLES, Role
from mlx_video.weights.stream import is_finite


@dataclass(frozen=True, slots=True)
class Zeros:
    """What of an adapter holds nothing but zeros.

    Attributes:
        layers: how many layers stay as they are for it.
        first: a tensor of zeros, for messages; "" if there is none.
        bare_magnitudes: how many pairs of zeros stand beside DoRA's magnitudes, which count without them.
    """

    layers: int = 0
    first: str = ""
    bare_magnitudes: int = 0


def leave_out_zeros(layers: Mapping[str, LayerChanges]) -> tuple[dict[str, LayerChanges], Zeros]:
    """Drop the changes that change nothing, whatever the weight and the strength.

    A new value is none of them, even if it is zero, nor is DoRA with an empty pair: its magnitudes give the
    weight other lengths.

    Args:
        layers: what a file does to each layer.

    Returns:
        The layers that change, with the changes that count; and what was dropped.

    Raises:
        CheckpointError: the file ends early.
    """
    kept: dict[str, LayerChanges] = {}
    empty: list[str] = []
    bare_magnitudes = 0
    for path, layer in layers.items():
        zeros = {change: find_zeros(change.file, change.delta.tensors) for change in _products(layer)}
        bare_magnitudes += sum(bool(name) and change.magnitude is not None for change, name in zeros.items())
        idle = {change: name for change, name in zeros.items() if name and change.magnitude is None}
        empty += idle.values()
        if changed := _without(layer, idle):
            kept[path] = changed
    return kept, Zeros(len(layers) - len(kept), next(iter(empty), ""), bare_magnitudes)


def _products(layer: LayerChanges) -> list[Change]:
    return [change for of_name in layer.changes.values() for change in of_name if not change.replaces]


def _without(layer: LayerChanges, idle: Mapping[Change, str]) -> LayerChanges | None:
    changes = {
        name: tuple(change for change in of_name if change not in idle)
        for name, of_name in layer.changes.items()
    }
    changes = {name: of_name for name, of_name in changes.items() if of_name}
    has_rank = any(change.delta.rank is not None for of_name in changes.values() for change in of_name)
    alpha_source = layer.alpha_source if has_rank else None
    return replace(layer, changes=changes, alpha_source=alpha_source) if changes else None


def find_idle_layer(file: AdapterFile, keys: Mapping[Role, str]) -> str:
    """A tensor of zeros for which nothing that a file holds for one layer changes it; "" where it may.

    Args:
        file: the adapter.
        keys: role → name of the tensor.
    """
    if "set_weight" in keys or "magnitude" in keys:
        return ""
    products = [[keys[role] for role in roles if role in keys] for roles in PRODUCT_ROLES]
    zeros = [find_zeros(file, names) for names in products if names]
    return zeros[0] if zeros and all(zeros) else ""


def find_zeros(file: AdapterFile, factors: Sequence[str]) -> str:
    """The factor for which a product of tensors is zero, "" where it may be another number.

    A number that is not finite makes the product another: such a file is damaged, which shows later.
    """
    zero = next((name for name in factors if file.is_zero(name)), "")
    return zero if zero and all(_holds_numbers(file.read(name)) for name in factors) else ""


def _holds_numbers(array: mx.array) -> bool:
    return not mx.issubdtype(array.dtype, mx.floating) or is_finite(array)
