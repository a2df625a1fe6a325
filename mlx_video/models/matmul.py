"""Matrix products: linear layers and attention, cut into chunks where one would be too large."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.dispatch import FEWEST_QUERIES, TILE, UNPACKED_ROWS, current_limits, packing_name
from mlx_video.models.elementwise import on_gpu


def in_chunks(function: Callable[[mx.array], mx.array], x: mx.array, rows: int, axis: int = 0) -> mx.array:
    """Apply a function that treats rows independently to `rows` of them at a time.

    Chunks are of nearly even size and of whole tiles. They give bit for bit what the whole gives wherever the
    kernel of a product does not depend on the number of rows: not on every GPU, and not with OpenBLAS for
    products of less than a million multiplications.

    Args:
        function: keeps the length of `axis`.
        x: any shape.
        rows: the most that one chunk may have.
        axis: where the rows lie.

    Returns:
        What `function(x)` would give.
    """
    length = x.shape[axis]
    if length <= rows:
        return function(x)
    chunks = []
    for chunk in mx.split(x, _chunk_ends(length, rows), axis=axis):
        chunks.append(function(chunk))
        # One after another: together they would be one long dispatch, with the intermediates of all.
        mx.eval(chunks[-1])
    return mx.concatenate(chunks, axis=axis)


def _chunk_ends(length: int, rows: int) -> list[int]:
    """Ends of all chunks but the last. Shorter ones come first: the last one, cut off, is not tiny."""
    count, unit = -(-length // rows), TILE if rows % TILE == 0 else 1
    units = -(-length // unit)
    return [units * chunk // count * unit for chunk in range(1, count)]


def compute_dtype(layer: nn.Module) -> mx.Dtype:
    """The type a linear layer multiplies in.

    That is its weight's, or its scales' when it is quantized. On a CPU it is float32 for every layer, since
    products of other types are up to a hundred times slower there.
    """
    return _stored_dtype(layer) if on_gpu() else mx.float32


def common_dtype(*layers: nn.Module) -> mx.Dtype:
    """The type that layers which take the same input all multiply in; float32 where they differ."""
    dtypes = {compute_dtype(layer) for layer in layers}
    return dtypes.pop() if len(dtypes) == 1 else mx.float32


def project(layer: nn.Module, x: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
    """Apply a linear layer.

    Args:
        layer: nn.Linear, nn.QuantizedLinear, or a wrapper that looks like one. What it may hold as `side`, a
            UnmergedAdapter, runs beside it.
        x: [L, in], any floating type.
        dtype: to multiply in; None for the layer's :func:`compute_dtype`. A weight of another type is
            converted for this one product.

    Returns:
        [L, out] in that type.
    """
    dtype, limits = dtype or compute_dtype(layer), current_limits()
    rows = limits.rows(flops=2 * x.shape[-1] * layer.weight.shape[0])
    if _is_quantized(layer):
        rows = min(rows, limits.quantized_rows)
    multiply = _multiplier(layer, dtype, len(x))
    if "unmerged" in layer:
        return in_chunks(lambda part: layer.unmerged(part, multiply(part)), x.astype(dtype), rows)
    return in_chunks(multiply, x.astype(dtype), rows)


def _multiplier(layer: nn.Module, dtype: mx.Dtype, num_rows: int) -> Callable[[mx.array], mx.array]:
    """What maps rows [L, in] of a type to [L, out]: the layer, or its weight unpacked or widened."""
    if isinstance(layer, nn.QuantizedLinear) and _is_unpacked(layer, num_rows):
        weight = _dequantize(layer)
    elif isinstance(layer, nn.Linear) and layer.weight.dtype != dtype:
        weight = layer.weight
    else:
        return layer
    # Converted once, also where the rows are cut.
    weight = weight.astype(dtype).T
    if "bias" not in layer:
        return lambda x: x @ weight
    bias = layer.bias.astype(dtype)
    return lambda x: mx.addmm(bias, x, weight)


def _is_unpacked(layer: nn.QuantizedLinear, num_rows: int) -> bool:
    """Whether a layer's weight is unpacked for a product of so many rows; on a CPU it always is."""
    limits = current_limits()
    if not (on_gpu() and limits.quantized_matmul):
        return True
    return num_rows >= UNPACKED_ROWS and packing_name(layer.bits, layer.group_size) in limits.unpacked


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
        queries: [B, N, L, D].
        keys, values: [B, N, K, D], the type of `queries`.
        scale: of the products of queries and keys.

    Returns:
        [B, N, L, D].
    """
    limits = current_limits()
    row_scores = math.prod(keys.shape[:3])
    row_flops = 4 * row_scores * keys.shape[3]
    if on_gpu() and limits.fused_attention:
        rows = limits.rows(flops=row_flops, fewest=FEWEST_QUERIES)
        return in_chunks(
            lambda part: mx.fast.scaled_dot_product_attention(part, keys, values, scale=scale),
            queries,
            rows,
            axis=2,
        )
    # On a CPU products copy what is not contiguous, which once is enough.
    turned, values = mx.contiguous(keys.swapaxes(-1, -2).astype(mx.float32)), mx.contiguous(values)
    rows = limits.rows(elements=row_scores, flops=row_flops)
    return in_chunks(lambda part: _attend_written_out(part, turned, values, scale), queries, rows, axis=2)


def _attend_written_out(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Attention whose scores exist in memory; `keys` are [1, N, D, K], float32 like the scores.

    MLX's own does the same on a CPU, but takes twice as long for exp as for a power of two.
    """
    scores = (queries.astype(mx.float32) * (scale / math.log(2))) @ keys
    weights = mx.power(2.0, scores - scores.max(axis=-1, keepdims=True))
    mixed = weights.astype(values.dtype) @ values
    return (mixed / weights.sum(axis=-1, keepdims=True)).astype(values.dtype)


def attend_biased(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array) -> mx.array:
    """Softmax attention whose scores are not scaled but get a bias; for short sequences, it is never cut.

    Args:
        queries: [1, N, L, D].
        keys, values: [1, N, K, D], the type of `queries`.
        bias: [N, L, K], the type of `queries`.

    Returns:
        [1, N, L, D].
    """
    if current_limits().fused_attention:
        # The softmax inside runs in float32 whatever the type.
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=bias[None])
    scores = queries.astype(mx.float32) @ keys.astype(mx.float32).swapaxes(-1, -2) + bias
    return mx.softmax(scores, axis=-1).astype(values.dtype) @ values


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """[L, N·D] → [1, N, L, D], a view: heads are contiguous runs of channels."""
    return x.reshape(1, x.shape[0], num_heads, -1).swapaxes(1, 2)


def merge_heads(x: mx.array) -> mx.array:
    """[1, N, L, D] → [L, N·D]; undoes :func:`split_heads`."""
    return x.swapaxes(1, 2).reshape(x.shape[2], -1)
