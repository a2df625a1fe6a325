"""The VAE's norm over channels, then SiLU."""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_video.models.elementwise import fused, on_gpu
from mlx_video.models.kernels.metal_kernel import SIMD_WIDTH, MetalKernel

_MINUS_LOG2_E = -1 / math.log(2)
_GROUP = 8 * SIMD_WIDTH

CHANNEL_NORM = MetalKernel(
    "channel_norm",
    ("x", "gamma", "eps"),
    # A SIMD group has one position. Its sigmoid never raises e to a large number.
    f"""
    constexpr int COUNT = (DIM + {SIMD_WIDTH} - 1) / {SIMD_WIDTH};
    const size_t start = size_t(thread_position_in_grid.x / {SIMD_WIDTH}) * DIM;
    const int lane = thread_index_in_simdgroup;
    float values[COUNT];
    float square = 0;
    for (int i = 0; i < COUNT; ++i) {{
        const int channel = i * {SIMD_WIDTH} + lane;
        values[i] = channel < DIM ? float(x[start + channel]) : 0.0f;
        square += values[i] * values[i];
    }}
    square = simd_sum(square);
    const float factor = precise::rsqrt(square / DIM + eps);
    for (int i = 0; i < COUNT; ++i) {{
        const int channel = i * {SIMD_WIDTH} + lane;
        if (channel < DIM) {{
            const float value = gamma[channel] * (values[i] * factor);
            const float power = precise::exp(-abs(value));
            out[start + channel] = T(value * ((value < 0 ? power : 1.0f) / (1.0f + power)));
        }}
    }}
""",
)
"""Reads and writes each number once, where norm and SiLU do so twice."""


@fused
def silu(x: mx.array) -> mx.array:
    """x · sigmoid(x), any shape."""
    if on_gpu():
        return x * mx.sigmoid(x)
    # MLX's CPU sigmoid takes twice as long as this power of two, and more than the norm before it.
    return x / (1 + mx.power(2.0, x * _MINUS_LOG2_E))


def normalize_channels(x: mx.array, gamma: mx.array) -> mx.array:
    """x / max(‖x‖, 1e-12) · √C · gamma over the channels of every position.

    Args:
        x: [..., C].
        gamma: [C].
    """
    return mx.fast.rms_norm(x, gamma, _eps(x))


def normalize_and_activate(x: mx.array, gamma: mx.array) -> mx.array:
    """SiLU of :func:`normalize_channels`; takes and gives [..., C]."""
    if not (CHANNEL_NORM.is_chosen and x.dtype == gamma.dtype):
        return silu(normalize_channels(x, gamma))
    channels = x.shape[-1]
    return CHANNEL_NORM.run(
        (x, gamma, mx.array(_eps(x))),
        constants={"T": x.dtype, "DIM": channels},
        threads=x.size // channels * SIMD_WIDTH,
        group=_GROUP,
        shape=tuple(x.shape),
        dtype=x.dtype,
    )


def _eps(x: mx.array) -> float:
    """The floor of the norm, 1e-12, under the root of a mean of squares."""
    return 1e-24 / x.shape[-1]
