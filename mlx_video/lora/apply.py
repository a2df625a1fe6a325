"""Adapters into a transformer: merged into its weights, or run beside its quantized layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.lora.changes import Change
from mlx_video.lora.damage import explain_non_finite, name_files
from mlx_video.models.block_order import find_blocks, find_prefix
from mlx_video.models.transformer import WanTransformer
from mlx_video.request import LoraMode
from mlx_video.weights.stream import is_finite


def apply_adapters(
    module: nn.Module, adapters: AdapterSet, *, mode: LoraMode = "auto", prefix: str = ""
) -> None:
    """Change a transformer, or a part of it, whose weights have just been loaded.

    All changes of a weight are added in float32, which is rounded once. In a quantized layer, low-rank pairs
    run beside the quantized weight instead; with changes of other kinds the layer becomes a dense one. Layers
    are changed one after another, so the extra memory is that of one weight, and of the pairs that run beside
    layers.

    Args:
        module: dense, quantized or mixed. Blocks that it lacks are left to calls of their own.
        adapters: of this transformer.
        mode: "auto" as said above; "merge" quantizes changed weights again; "side" runs low-rank pairs beside
            dense layers as well.
        prefix: where the module stands in the transformer, such as "blocks.3."; "" for the whole. With a
            prefix the adapters' tensors are kept in memory, since a streamed block comes again at each step.

    Raises:
        AdapterError: a weight would not be finite.
        CheckpointError: a file cannot be read any more.
        ValueError: the module lacks a parameter that the adapters change.
    """
    if adapters.widening and not prefix:
        assert isinstance(module, WanTransformer)
        module.widen_input(adapters.widening.taken)
    layers = dict(module.named_modules())
    for name in adapters.changes:
        if not name.startswith(prefix):
            continue
        path, _, leaf = name.removeprefix(prefix).rpartition(".")
        layer = layers.get(path)
        if layer is None or leaf not in layer:
            if not prefix and _is_elsewhere(module, path):
                continue
            raise ValueError(
                f"the module has no parameter {name}, which {name_files(adapters.changes[name])} changes"
            )
        changed = _change_layer(layer, leaf, name, adapters, mode, keep=bool(prefix))
        if changed is not layer:
            module.update_modules(tree_unflatten([(path, changed)]))
            layers[path] = changed
    if not prefix:
        # The float32 weights of before are as large as the module: not to be kept for later arrays.
        mx.clear_cache()


def merged_weight(adapters: AdapterSet, name: str, weight: mx.array) -> mx.array:
    """Parameter with the adapters' change merged into it.

    Args:
        adapters: of the transformer it belongs to.
        name: the parameter's, in our spelling.
        weight: dense, in our layout, float32.

    Returns:
        Shape of `weight`, or of the wider one that the adapters make of it, float32, not yet rounded to what
        it will be stored in.

    Raises:
        AdapterError: the result would not be finite.
    """
    wide = adapters.widen(name, weight)
    changes = adapters.changes.get(name, ())
    return _merge(name, wide.astype(mx.float32), changes, mx.float32) if changes else wide


def _is_elsewhere(module: nn.Module, path: str) -> bool:
    """Whether a layer is in a block that the module's own list lacks, since a block source has it."""
    sequence, _, index = find_prefix(f"{path}.").removesuffix(".").rpartition(".")
    with suppress(AttributeError):
        return bool(sequence) and int(index) >= len(find_blocks(module, sequence))
    return False


def _change_layer(
    layer: nn.Module, leaf: str, name: str, adapters: AdapterSet, mode: LoraMode, *, keep: bool
) -> nn.Module:
    """Change one parameter; the layer itself is returned, or another one to stand in its place."""
    changes = adapters.changes[name]
    if leaf == "weight" and _runs_beside(layer, changes, mode):
        layer.unmerged = adapters.run_beside(name, keep=keep)
    elif leaf == "weight" and isinstance(layer, nn.QuantizedLinear):
        weight = _merge(name, _unpack(layer), changes, layer.scales.dtype, keep=keep)
        if mode != "merge":
            return _as_dense(layer, weight)
        _pack(layer, weight)
    else:
        weight = layer[leaf]
        layer[leaf] = _merge(name, weight.astype(mx.float32), changes, weight.dtype, keep=keep)
    return layer


def _runs_beside(layer: nn.Module, changes: Sequence[Change], mode: LoraMode) -> bool:
    if mode == "merge" or not all(change.is_low_rank for change in changes):
        return False
    return isinstance(layer, nn.QuantizedLinear) or (mode == "side" and isinstance(layer, nn.Linear))


def _merge(
    name: str, weight: mx.array, changes: Sequence[Change], dtype: mx.Dtype, *, keep: bool = False
) -> mx.array:
    for change in changes:
        weight = change.apply(weight, keep=keep)
        # One delta at a time: each is as large as the weight.
        mx.eval(weight)
    merged = weight.astype(dtype)
    mx.eval(merged)
    if not is_finite(merged):
        raise explain_non_finite(name, changes, dtype)
    return merged


def _unpack(layer: nn.QuantizedLinear) -> mx.array:
    """The dense weight in float32: not rounded to the type of the scales."""
    biases = layer.biases.astype(mx.float32) if layer.biases is not None else None
    scales = layer.scales.astype(mx.float32)
    return mx.dequantize(layer.weight, scales, biases, layer.group_size, layer.bits, mode=layer.mode)


def _pack(layer: nn.QuantizedLinear, weight: mx.array) -> None:
    layer.weight, layer.scales, layer.biases = mx.quantize(
        weight, group_size=layer.group_size, bits=layer.bits, mode=layer.mode
    )
    mx.eval(layer.weight, layer.scales, layer.biases)


def _as_dense(layer: nn.QuantizedLinear, weight: mx.array) -> nn.Linear:
    rows, columns = weight.shape
    dense = nn.Linear(columns, rows, bias="bias" in layer)
    dense.weight = weight
    if "bias" in layer:
        dense.bias = layer.bias
    return dense
