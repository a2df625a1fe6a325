"""Matrix products: linear layers and attention, cut into pieces where one piece would be too large."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.elementwise import on_gpu

# Some MLX releases return garbage from quantized products with more rows (ml-explore/mlx pull 3631, 3922).
QUANTIZED_ROWS = 32768
# Elements of the largest intermediate, to bound memory. Not smaller on a CPU: beside other work, every call
# of a threaded BLAS may wait for a core.
GPU_PIECE = 2**28
CPU_PIECE = 2**25


def max_rows(row_elements: int) -> int:
    """How many rows of an intermediate to make at a time, given the elements of one row."""
    return max(64, (GPU_PIECE if on_gpu() else CPU_PIECE) // row_elements)


def in_pieces(function: Callable[[mx.array], mx.array], x: mx.array, rows: int, axis: int = 0) -> mx.array:
    """Apply a function that treats rows independently to `rows` of them at a time, in pieces of even size.

    Args:
        function: keeps the length of `axis`.
        x: any shape.
        rows: the most that one piece may have.
        axis: where the rows lie.

    Returns:
        What `function(x)` would give.
    """
    length = x.shape[axis]
    if length <= rows:
        return function(x)
    even = -(-length // -(-length // rows))
    pieces = []
    for piece in mx.split(x, list(range(even, length, even)), axis=axis):
        pieces.append(function(piece))
        # One after another: a lazy graph of all pieces would hold the intermediates of many at once.
        mx.eval(pieces[-1])
    return mx.concatenate(pieces, axis=axis)


def compute_dtype(layer: nn.Module) -> mx.Dtype:
    """The type a linear layer multiplies in.

    That is its weight's, or its scales' when it is quantized. On a CPU it is float32 for every layer, since
    products of other types are up to a hundred times slower there.
    """
    return _stored_dtype(layer) if on_gpu() else mx.float32


def project(layer: nn.Module, x: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
    """Apply a linear layer.

    Args:
        layer: nn.Linear, nn.QuantizedLinear, or a wrapper that looks like one.
        x: [L, in], any floating type.
        dtype: to multiply in; None for the layer's :func:`compute_dtype`. A weight of another type is
            converted for this one product.

    Returns:
        [L, out] in that type.
    """
    dtype = dtype or compute_dtype(layer)
    x = x.astype(dtype)
    if isinstance(layer, nn.QuantizedLinear) and not on_gpu():
        return _multiply(x, _dequantize(layer), layer)
    if isinstance(layer, nn.Linear) and layer.weight.dtype != dtype:
        return _multiply(x, layer.weight, layer)
    return in_pieces(layer, x, QUANTIZED_ROWS) if _is_quantized(layer) else layer(x)


def _multiply(x: mx.array, weight: mx.array, layer: nn.Module) -> mx.array:
    weight = weight.astype(x.dtype).T
    return mx.addmm(layer.bias.astype(x.dtype), x, weight) if "bias" in layer else x @ weight


def _dequantize(layer: nn.QuantizedLinear) -> mx.array:
    return mx.dequantize(
        layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, mode=layer.mode
    )


def _is_quantized(layer: nn.Module) -> bool:
    return "scales" in layer


def _stored_dtype(layer: nn.Module) -> mx.Dtype:
    return layer.scales.dtype if _is_quantized(layer) else layer.weight.dtype


def attend(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Softmax attention over all keys.

    Args:
        queries: [1, N, L, D].
        keys, values: [1, N, K, D], the type of `queries`.
        scale: of the products of queries and keys.

    Returns:
        [1, N, L, D].
    """
    if on_gpu():
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
    # On a CPU products copy what is not contiguous, which once is enough.
    keys, values = mx.contiguous(keys.swapaxes(-1, -2)), mx.contiguous(values)
    rows = max_rows(keys.shape[1] * keys.shape[3])
    return in_pieces(lambda part: _attend_written_out(part, keys, values, scale), queries, rows, axis=2)


def _attend_written_out(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Attention whose scores exist in memory; `keys` are [1, N, D, K].

    MLX's own does the same on a CPU, but takes twice as long for exp as for a power of two.
    """
    scores = ((queries * (scale / math.log(2))) @ keys).astype(mx.float32)
    weights = mx.power(2.0, scores - scores.max(axis=-1, keepdims=True))
    mixed = weights.astype(values.dtype) @ values
    return (mixed / weights.sum(axis=-1, keepdims=True)).astype(values.dtype)


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """[L, N·D] → [1, N, L, D], a view: heads are contiguous runs of channels."""
    return x.reshape(1, x.shape[0], num_heads, -1).swapaxes(1, 2)


def merge_heads(x: mx.array) -> mx.array:
    """[1, N, L, D] → [L, N·D]; undoes :func:`split_heads`."""
    return x.swapaxes(1, 2).reshape(x.shape[2], -1)
