"""Every kind of operation of the networks, on made-up input, beside the right result for some of its rows.

The operations are the networks' own functions, so that what is tried is what a run would do on this device.
The right results are worked out by numpy in float64, from the very numbers that the operation is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.geometry import Triple
from mlx_video.models.dispatch import current_limits
from mlx_video.models.elementwise import Elementwise, on_gpu
from mlx_video.models.kernels.rotary_norm import rotary_norm
from mlx_video.models.matmul import attend, attend_biased, compute_dtype, merge_heads, project
from mlx_video.models.rope import build_rotary_table, rotate, token_angles
from mlx_video.models.token_layout import TokenSpan, video_layout
from mlx_video.models.transformer_block import modulate
from mlx_video.models.vae.convolutions import (
    convolve_doubled,
    convolve_halved,
    convolve_taps,
    multiply_taps,
    split_frames,
)
from mlx_video.models.vae.layers import RMSNorm

EPS = 1e-6
ROW_LIMIT = 32768
"""Rows that some faulty kernels can count; the ones next to it are always among the sample."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One operation on one input.

    Attributes:
        run: gives all rows, [R, C], on the default device.
        rows: the ones that are looked at.
        expected: gives what these rows should be, [len(rows), C], float64.
        dtype: the result is rounded to.
        flops: of the whole operation; 0 where nobody asks for its rate.
    """

    run: Callable[[], mx.array]
    rows: np.ndarray
    expected: Callable[[], np.ndarray]
    dtype: mx.Dtype = mx.float32
    flops: float = 0.0


def sample_rows(count: int) -> np.ndarray:
    """Which of `count` rows to look at: both ends, the 32,768th and its neighbours, and some in between."""
    wanted = [
        *range(16),
        *range(count - 16, count),
        *range(ROW_LIMIT - 8, ROW_LIMIT + 8),
        *np.linspace(0, count - 1, 48, dtype=int).tolist(),
    ]
    return np.array(sorted({row for row in wanted if 0 <= row < count}))


class Draw:
    """Made-up arrays, the same on every machine.

    Drawn and rounded on the CPU: what is tested must not make its own test data.
    """

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def __call__(self, *shape: int, dtype: mx.Dtype = mx.float32, scale: float = 1.0) -> mx.array:
        """Normal numbers times `scale`."""
        values = self._random.standard_normal(shape, dtype=np.float32)
        with mx.stream(mx.cpu):
            array = (mx.array(values) * scale).astype(dtype)
            mx.eval(array)
        return array


def working_dtype(dtype: mx.Dtype) -> mx.Dtype:
    """The type in which networks whose weights have this type compute on this device."""
    return dtype if on_gpu() else mx.float32


def wide(array: mx.array) -> np.ndarray:
    """The numbers of an array, in float64."""
    with mx.stream(mx.cpu):
        return np.array(array.astype(mx.float32)).astype(np.float64)


def try_product(rows: int, inputs: int, outputs: int, dtype: mx.Dtype) -> Trial:
    """A linear layer, [rows, inputs] → [rows, outputs]."""
    draw = Draw()
    x, layer = draw(rows, inputs, dtype=dtype), _linear(draw, inputs, outputs, dtype)
    picked = sample_rows(rows)
    return Trial(
        lambda: project(layer, x),
        picked,
        lambda: wide(x)[picked] @ wide(layer.weight).T + wide(layer.bias),
        compute_dtype(layer),
        2.0 * rows * inputs * outputs,
    )


def try_quantized_product(
    rows: int, inputs: int, outputs: int, dtype: mx.Dtype, bits: int, group_size: int = 64
) -> Trial:
    """A linear layer with packed weights."""
    draw = Draw()
    x = draw(rows, inputs, dtype=dtype)
    with mx.stream(mx.cpu):
        layer = _linear(draw, inputs, outputs, dtype).to_quantized(group_size=group_size, bits=bits)
        weight = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=group_size, bits=bits)
        mx.eval(layer.parameters(), weight)
    picked = sample_rows(rows)
    return Trial(
        lambda: project(layer, x),
        picked,
        lambda: wide(x)[picked] @ wide(weight).T + wide(layer.bias),
        compute_dtype(layer),
        2.0 * rows * inputs * outputs,
    )


def _linear(draw: Draw, inputs: int, outputs: int, dtype: mx.Dtype) -> nn.Linear:
    layer = nn.Linear(1, 1)
    layer.weight = draw(outputs, inputs, dtype=dtype, scale=inputs**-0.5)
    layer.bias = draw(outputs, dtype=dtype)
    return layer


def try_attention(heads: int, queries: int, keys: int, head_dim: int, dtype: mx.Dtype) -> Trial:
    """Attention without a mask, as among video tokens and from them to the text."""
    draw, scale, dtype = Draw(), head_dim**-0.5, working_dtype(dtype)
    q = draw(1, heads, queries, head_dim, dtype=dtype)
    k, v = (draw(1, heads, keys, head_dim, dtype=dtype) for _ in range(2))
    picked = sample_rows(queries)
    return Trial(
        lambda: merge_heads(attend(q, k, v, scale)),
        picked,
        lambda: _attention(wide(q)[0][:, picked] * scale, wide(k)[0], wide(v)[0]),
        dtype,
        4.0 * heads * queries * keys * head_dim,
    )


def try_biased_attention(heads: int, tokens: int, head_dim: int, dtype: mx.Dtype) -> Trial:
    """Attention with a bias on its scores, as in the text encoder."""
    draw, dtype = Draw(), working_dtype(dtype)
    q = draw(1, heads, tokens, head_dim, dtype=dtype, scale=head_dim**-0.5)
    k, v = (draw(1, heads, tokens, head_dim, dtype=dtype) for _ in range(2))
    bias = draw(heads, tokens, tokens, dtype=dtype)
    picked = sample_rows(tokens)
    return Trial(
        lambda: merge_heads(attend_biased(q, k, v, bias)),
        picked,
        lambda: _attention(wide(q)[0][:, picked], wide(k)[0], wide(v)[0], wide(bias)[:, picked]),
        dtype,
    )


def _attention(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, bias: np.ndarray | float = 0.0
) -> np.ndarray:
    """[N, L, D], [N, K, D] twice, [N, L, K] → [L, N·D]."""
    weights = _softmax(queries @ keys.swapaxes(1, 2) + bias)
    return (weights @ values).swapaxes(0, 1).reshape(queries.shape[1], -1)


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def try_softmax(rows: int, columns: int) -> Trial:
    """A softmax of its own, as over the positions of a frame in the VAE."""
    scores = Draw()(rows, columns, scale=4.0)
    picked = sample_rows(rows)
    return Trial(
        lambda: mx.softmax(scores, axis=-1, precise=True), picked, lambda: _softmax(wide(scores)[picked])
    )


def try_layer_norm(tokens: int, dim: int, dtype: mx.Dtype = mx.float32) -> Trial:
    """Layer norm with the scale and shift of a timestep, rounded to a type."""
    draw, dtype = Draw(), working_dtype(dtype)
    x, shift_scale = draw(tokens, dim, scale=3.0), draw(1, 2, dim)
    picked = sample_rows(tokens)

    def expected() -> np.ndarray:
        part, (shift, scale) = wide(x)[picked], wide(shift_scale)[0]
        centred = part - part.mean(1, keepdims=True)
        return centred / np.sqrt(part.var(1, keepdims=True) + EPS) * (1 + scale) + shift

    spans = (TokenSpan(0, tokens, 0),)
    return Trial(lambda: modulate(x, shift_scale, spans, EPS, dtype), picked, expected, dtype)


def try_rms_norm(tokens: int, dim: int, dtype: mx.Dtype) -> Trial:
    """The norm of queries and keys, and of the text encoder."""
    draw, norm, dtype = Draw(), nn.RMSNorm(dim, eps=EPS), working_dtype(dtype)
    x = draw(tokens, dim, dtype=dtype, scale=3.0)
    norm.weight = draw(dim, dtype=dtype)
    picked = sample_rows(tokens)
    return Trial(lambda: norm(x), picked, lambda: _rms_norm(wide(x)[picked], EPS) * wide(norm.weight), dtype)


def try_channel_norm(positions: int, channels: int) -> Trial:
    """The VAE's norm over the channels of every position."""
    draw, norm = Draw(), RMSNorm(channels)
    x, norm.gamma = draw(positions, channels, scale=3.0), draw(channels)
    picked = sample_rows(positions)
    return Trial(lambda: norm(x), picked, lambda: _rms_norm(wide(x)[picked], 0.0) * wide(norm.gamma))


def try_channel_norm_and_silu(positions: int, channels: int) -> Trial:
    """The same norm, and the activation that follows it."""
    trial = try_channel_norm(positions, channels)
    draw, norm = Draw(), RMSNorm(channels)
    x, norm.gamma = draw(positions, channels, scale=3.0), draw(channels)
    return replace(trial, run=lambda: norm.and_silu(x), expected=lambda: silu_by_exp(trial.expected()))


def _rms_norm(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(1, keepdims=True) + eps)


def try_elementwise(
    function: Elementwise,
    expected: Callable[..., np.ndarray],
    rows: int,
    columns: int,
    dtypes: tuple[mx.Dtype, ...],
) -> Trial:
    """A function of every number by itself, which runs fused where fusing is on.

    Args:
        function: of arrays [rows, columns], one for each of `dtypes`.
        expected: the same of float64 arrays.
        rows, columns: of the arrays.
        dtypes: of the arrays on a GPU; the result has the first one's.
    """
    draw = Draw()
    arrays = [draw(rows, columns, dtype=working_dtype(dtype), scale=3.0) for dtype in dtypes]
    picked = sample_rows(rows)
    return Trial(
        lambda: function(*arrays),
        picked,
        lambda: expected(*(wide(array)[picked] for array in arrays)),
        arrays[0].dtype,
    )


def gelu_by_tanh(x: np.ndarray) -> np.ndarray:
    """GELU in its tanh form."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_by_erf(x: np.ndarray) -> np.ndarray:
    """GELU as it is defined."""
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu_by_exp(x: np.ndarray) -> np.ndarray:
    """x · sigmoid(x)."""
    return x / (1 + np.exp(-x))


def try_rotation(grid: Triple, heads: int, head_dim: int, dtype: mx.Dtype) -> Trial:
    """Rotary positions of the tokens of a grid (t, h, w)."""
    tokens, dtype = math.prod(grid), working_dtype(dtype)
    layout = video_layout(grid)
    x, table = Draw()(tokens, heads, head_dim, dtype=dtype), build_rotary_table(layout, head_dim)
    picked = sample_rows(tokens)
    angles = token_angles(layout.segments[0], head_dim)[picked]
    return Trial(lambda: rotate(x, table).flatten(1), picked, lambda: _turn(wide(x)[picked], angles), dtype)


def try_rotary_norm(grid: Triple, heads: int, head_dim: int, dtype: mx.Dtype) -> Trial:
    """The norm of queries and keys over all heads, then their rotary positions."""
    tokens, dim, dtype = math.prod(grid), heads * head_dim, working_dtype(dtype)
    layout, draw, norm = video_layout(grid), Draw(), nn.RMSNorm(dim, eps=EPS)
    x, norm.weight = draw(tokens, dim, dtype=dtype, scale=3.0), draw(dim, dtype=dtype)
    table, picked = build_rotary_table(layout, head_dim), sample_rows(tokens)
    angles = token_angles(layout.segments[0], head_dim)[picked]

    def expected() -> np.ndarray:
        normal = _rms_norm(wide(x)[picked], EPS) * wide(norm.weight)
        return _turn(normal.reshape(len(picked), heads, head_dim), angles)

    return Trial(lambda: rotary_norm(x, norm, table, heads).flatten(1), picked, expected, dtype)


def _turn(heads: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """[L, N, D], [L, D/2] → [L, N·D]."""
    pairs = heads.reshape(*heads.shape[:2], -1, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles[:, None])
    return np.stack([turned.real, turned.imag], axis=-1).reshape(len(heads), -1)


def try_causal_convolution(frames: int, height: int, width: int, inputs: int, outputs: int) -> Trial:
    """The VAE's 3×3×3 convolution, of frames and the two before them."""
    return _try_taps(convolve_taps, 3, (frames, height, width), inputs, outputs)


def try_small_frames(frames: int, height: int, width: int, inputs: int, outputs: int) -> Trial:
    """The same of frames that come two at a time, if that is how latents are decoded, or one at a time."""

    def convolve(taps: Sequence[mx.array], weight: mx.array, bias: mx.array) -> mx.array:
        size = 2 if current_limits().pairs_latents else 1
        parts = zip(*(split_frames(tap, size) for tap in taps), strict=True)
        return mx.concatenate([convolve_taps(part, weight, bias) for part in parts], axis=1)

    return _try_taps(convolve, 3, (frames, height, width), inputs, outputs)


def try_time_convolution(frames: int, height: int, width: int, inputs: int, outputs: int) -> Trial:
    """The VAE's 3×1×1 convolution, of frames and the two before them."""
    return _try_taps(multiply_taps, 1, (frames, height, width), inputs, outputs)


def _try_taps(function: Callable[..., mx.array], side: int, size: Triple, inputs: int, outputs: int) -> Trial:
    """A convolution over three frames whose kernel has `side` rows and columns."""
    draw, (frames, height, width) = Draw(), size
    x = draw(1, frames + 2, height, width, inputs)
    weight = draw(outputs, 3, side, side, inputs, scale=(3 * side * side * inputs) ** -0.5)
    bias, positions, edge = draw(outputs), _positions(*size), (side // 2, side // 2)
    return Trial(
        lambda: function([x[:, i : i + frames] for i in range(3)], weight, bias).reshape(-1, outputs),
        np.ravel_multi_index(tuple(positions.T), size),
        lambda: _convolve(np.pad(wide(x)[0], ((0, 0), edge, edge, (0, 0))), positions, weight, bias),
    )


def try_doubling(frames: int, height: int, width: int, inputs: int, outputs: int) -> Trial:
    """The VAE's step to twice the rows and columns."""
    draw = Draw()
    x = draw(1, frames, height, width, inputs)
    weight, bias = draw(outputs, 3, 3, inputs, scale=(9 * inputs) ** -0.5), draw(outputs)
    positions = _positions(frames, 2 * height, 2 * width)

    def expected() -> np.ndarray:
        doubled = wide(x)[0].repeat(2, axis=1).repeat(2, axis=2)
        padded = np.pad(doubled, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return _convolve(padded, positions, weight[:, None], bias)

    return Trial(
        lambda: convolve_doubled(x, weight, bias).reshape(-1, outputs),
        np.ravel_multi_index(tuple(positions.T), (frames, 2 * height, 2 * width)),
        expected,
    )


def try_halving(frames: int, height: int, width: int, inputs: int, outputs: int) -> Trial:
    """The VAE's step to half the rows and columns, which are even."""
    draw = Draw()
    x = draw(1, frames, height, width, inputs)
    weight, bias = draw(outputs, 3, 3, inputs, scale=(9 * inputs) ** -0.5), draw(outputs)
    positions = _positions(frames, height // 2, width // 2)

    def expected() -> np.ndarray:
        padded = np.pad(wide(x)[0], ((0, 0), (0, 1), (0, 1), (0, 0)))
        return _convolve(padded, positions * [1, 2, 2], weight[:, None], bias)

    return Trial(
        lambda: convolve_halved(x, weight, bias).reshape(-1, outputs),
        np.ravel_multi_index(tuple(positions.T), (frames, height // 2, width // 2)),
        expected,
    )


def _positions(frames: int, height: int, width: int) -> np.ndarray:
    """Where convolved frames are looked at, (t, y, x) each, in order."""
    return np.stack(np.unravel_index(sample_rows(frames * height * width), (frames, height, width)), axis=1)


def _convolve(padded: np.ndarray, corners: np.ndarray, weight: mx.array, bias: mx.array) -> np.ndarray:
    """Convolution of [T, H, W, C] at single places; `corners` are where the kernel begins."""
    kernel = wide(weight)
    t, h, w = kernel.shape[1:4]
    windows = np.stack([padded[a : a + t, b : b + h, c : c + w].ravel() for a, b, c in corners])
    return windows @ kernel.reshape(len(kernel), -1).T + wide(bias)
