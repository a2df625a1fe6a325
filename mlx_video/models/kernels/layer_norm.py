"""Layer norm whose result is rounded as it is written."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.models.kernels.metal_kernel import ROW_THREADS, MetalKernel, sum_of_row

LAYER_NORM = MetalKernel(
    "layer_norm",
    ("x", "weight", "bias", "eps"),
    f"""
    constexpr int COUNT = (DIM + {ROW_THREADS} - 1) / {ROW_THREADS};
    const size_t start = size_t(threadgroup_position_in_grid.x) * DIM;
    const int thread = thread_position_in_threadgroup.x;
    float values[COUNT];
    float mean = 0;
    for (int i = 0; i < COUNT; ++i) {{
        const int channel = i * {ROW_THREADS} + thread;
        values[i] = channel < DIM ? float(x[start + channel]) : 0.0f;
        mean += values[i];
    }}
    {sum_of_row("mean", "sums")}
    mean /= DIM;
    float variance = 0;
    for (int i = 0; i < COUNT; ++i) {{
        const float centred = i * {ROW_THREADS} + thread < DIM ? values[i] - mean : 0.0f;
        variance += centred * centred;
    }}
    {sum_of_row("variance", "squares")}
    const float factor = precise::rsqrt(variance / DIM + eps);
    for (int i = 0; i < COUNT; ++i) {{
        const int channel = i * {ROW_THREADS} + thread;
        if (channel < DIM) {{
            out[start + channel] = T(weight[channel] * ((values[i] - mean) * factor) + bias[channel]);
        }}
    }}
""",
)
"""Reads 4 and writes 2 bytes an element to give bfloat16, where norm and cast move 14."""


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float, dtype: mx.Dtype) -> mx.array:
    """(x - mean) / √(variance + eps) · weight + bias over the channels of every token.

    Args:
        x: [L, D], float32.
        weight, bias: [D], any floating type.
        eps: added to the variance.
        dtype: that the result is rounded to, once for all layers that read it.

    Returns:
        [L, D] in that type.
    """
    if not LAYER_NORM.is_chosen:
        return mx.fast.layer_norm(x, weight, bias, eps).astype(dtype)
    length, dim = x.shape
    return LAYER_NORM.run(
        (x, weight.astype(mx.float32), bias.astype(mx.float32), mx.array(eps)),
        constants={"T": dtype, "DIM": dim},
        threads=length * ROW_THREADS,
        group=ROW_THREADS,
        shape=(length, dim),
        dtype=dtype,
    )
