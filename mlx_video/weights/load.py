"""Tensors of a converted file into a module: strict, and in the memory that the module itself needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_video.config import QuantizationConfig
from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource
from mlx_video.weights.quantize import read_quantization
from mlx_video.weights.rules import Rule, Shape, apply_rules


def load_module(
    module: nn.Module,
    source: TensorSource,
    *,
    drop: Sequence[str] = ("freqs",),
    dtype: mx.Dtype | None = None,
    prefix_filter: tuple[str, ...] | None = None,
    quantization: QuantizationConfig | None = None,
) -> None:
    """Fill a module's parameters from a converted component; layers stored quantized become quantized layers.

    Axes of length one do not count when shapes are compared (a norm scale may lie there as [c, 1, 1, 1]).

    Args:
        module: its parameters carry the file's names. Must not have been evaluated, to stay small.
        source: the component's tensors.
        drop: patterns, as in `Rule`, of tensors that are left out on purpose. Quantized files of other tools
            hold the rotary table of the model that wrote them.
        dtype: of the loaded floating-point numbers; None keeps those of the file.
        prefix_filter: name prefixes of the part to load, such as ("decoder.", "conv2."); the rest of file and
            module is not looked at. None loads everything.
        quantization: what config.json says of this component; None believes the file.

    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen.
        ConfigError: a quantized layer contradicts `quantization`, or its tensors do not belong together.
    """
    shapes = fit_module(module, source, drop=drop, prefix_filter=prefix_filter, quantization=quantization)
    # Largest first: a read takes twice its tensor for a moment, which counts least while little is loaded.
    by_size = sorted(shapes, key=lambda name: source.infos[name].nbytes, reverse=True)
    loaded = [(name, _read(source, name, shapes[name], dtype)) for name in by_size]
    module.update(tree_unflatten(loaded))


def fit_module(
    module: nn.Module,
    source: TensorSource,
    *,
    drop: Sequence[str] = ("freqs",),
    prefix_filter: tuple[str, ...] | None = None,
    quantization: QuantizationConfig | None = None,
) -> Mapping[str, Shape]:
    """Do all that `load_module` does, except for reading: for callers that read tensors when they need them.

    Layers that are stored quantized become quantized layers, and names and shapes are checked.

    Args:
        module, source, drop, prefix_filter, quantization: as for :func:`load_module`.

    Returns:
        Name → shape of every parameter to read; the file's shape may have axes of length one besides.

    Raises:
        CheckpointError, ConfigError: as :func:`load_module`.
    """
    left_out = (*(Rule(pattern, None) for pattern in drop), Rule("*", "*"))
    infos = {
        name: info
        for name, info in source.infos.items()
        if _is_chosen(name, prefix_filter) and apply_rules(name, left_out)[0] is not None
    }
    _prepare_quantized_layers(module, infos, source, quantization)
    parameters: list[tuple[str, mx.array]] = tree_flatten(module.parameters())  # type: ignore[assignment]
    shapes = {name: array.shape for name, array in parameters if _is_chosen(name, prefix_filter)}
    _check_names(source, infos, shapes)
    _check_shapes(source, infos, shapes)
    return shapes


def _is_chosen(name: str, prefix_filter: tuple[str, ...] | None) -> bool:
    return prefix_filter is None or name.startswith(prefix_filter)


def _prepare_quantized_layers(
    module: nn.Module,
    infos: Mapping[str, TensorInfo],
    source: TensorSource,
    expected: QuantizationConfig | None,
) -> None:
    """Make every layer that has scales in the file a quantized layer of the file's bits and group size."""
    layers = dict(module.named_modules())
    settings: dict[str, QuantizationConfig] = {}
    for path in (name.removesuffix(".scales") for name in infos if name.endswith(".scales")):
        layer = layers.get(path)
        if layer is None or not hasattr(layer, "to_quantized"):
            raise CheckpointError(
                f"{source.label}: {path} is stored quantized, but the model has no layer there that can be. "
                "The file is from another model; convert it again."
            )
        settings[path] = read_quantization(path, layer.weight.shape[-1], infos)
        _check_quantization(path, settings[path], expected, infos, source)
    if expected is not None and not settings:
        raise ConfigError(
            f"config.json says {_describe(expected)}; {source.label} holds no quantized layer. "
            "Remove the key 'quantization' from config.json, or convert the model again."
        )

    def choose(path: str, _: nn.Module) -> bool | dict[str, int]:
        own = settings.get(path)
        return {"group_size": own.group_size, "bits": own.bits} if own else False

    nn.quantize(module, class_predicate=choose)


def _check_quantization(
    path: str,
    found: QuantizationConfig,
    expected: QuantizationConfig | None,
    infos: Mapping[str, TensorInfo],
    source: TensorSource,
) -> None:
    if expected is not None and found != expected:
        raise ConfigError(
            f"config.json says {_describe(expected)}; {path}.weight {list(infos[f'{path}.weight'].shape)} in "
            f"{source.label} is {_describe(found)}. Correct config.json or convert the model again."
        )


def _describe(quantization: QuantizationConfig) -> str:
    return f"{quantization.bits} bits, group {quantization.group_size}"


def _check_names(source: TensorSource, infos: Mapping[str, TensorInfo], shapes: Mapping[str, Shape]) -> None:
    missing = [name for name in shapes if name not in infos]
    unexpected = [name for name in infos if name not in shapes]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing, first {missing[0]} {list(shapes[missing[0]])}")
    if unexpected:
        problems.append(
            f"{len(unexpected)} unexpected, first {unexpected[0]} {list(infos[unexpected[0]].shape)}"
        )
    if problems:
        raise CheckpointError(
            f"{source.label}: tensors do not fit the model: {'; '.join(problems)}. "
            "config.json and weights are from different models, or the file is incomplete; convert it again."
        )


def _check_shapes(source: TensorSource, infos: Mapping[str, TensorInfo], shapes: Mapping[str, Shape]) -> None:
    for name, shape in shapes.items():
        if _without_ones(infos[name].shape) != _without_ones(shape):
            raise CheckpointError(
                f"{source.label}: {name} is {list(infos[name].shape)}, the model takes {list(shape)}. "
                "config.json and weights are from different models; convert the model again."
            )


def _without_ones(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)


def _read(source: TensorSource, name: str, shape: Shape, dtype: mx.Dtype | None) -> mx.array:
    array = source.read(name).reshape(shape)
    if dtype is not None and mx.issubdtype(array.dtype, mx.floating):
        array = array.astype(dtype)
    # One by one: a lazy cast would keep every source tensor alive until the last is read.
    mx.eval(array)
    return array
