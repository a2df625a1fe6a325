"""RMS norm of queries or keys, then their rotary positions."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.kernels.metal_kernel import ROW_THREADS, MetalKernel, sum_of_row
from mlx_video.models.rope import RotaryTable, rotate

ROTARY_NORM = MetalKernel(
    "rotary_norm",
    ("x", "weight", "cos_table", "sin_table", "eps"),
    # Rounded after the norm and after the weight, as the operations in its place are.
    f"""
    constexpr int PAIRS = DIM / 2;
    constexpr int COUNT = (PAIRS + {ROW_THREADS} - 1) / {ROW_THREADS};
    const size_t row = threadgroup_position_in_grid.x;
    const size_t start = row * DIM;
    const int thread = thread_position_in_threadgroup.x;
    float evens[COUNT];
    float odds[COUNT];
    float square = 0;
    for (int i = 0; i < COUNT; ++i) {{
        const int pair = i * {ROW_THREADS} + thread;
        evens[i] = pair < PAIRS ? float(x[start + 2 * pair]) : 0.0f;
        odds[i] = pair < PAIRS ? float(x[start + 2 * pair + 1]) : 0.0f;
        square += evens[i] * evens[i] + odds[i] * odds[i];
    }}
    {sum_of_row("square", "squares")}
    const float factor = precise::rsqrt(square / DIM + eps);
    for (int i = 0; i < COUNT; ++i) {{
        const int pair = i * {ROW_THREADS} + thread;
        if (pair < PAIRS) {{
            const float even = float(T(float(weight[2 * pair]) * float(T(evens[i] * factor))));
            const float odd = float(T(float(weight[2 * pair + 1]) * float(T(odds[i] * factor))));
            const size_t angle = row * ANGLES + pair % ANGLES;
            const float cosine = cos_table[angle];
            const float sine = sin_table[angle];
            out[start + 2 * pair] = T(even * cosine - odd * sine);
            out[start + 2 * pair + 1] = T(even * sine + odd * cosine);
        }}
    }}
""",
)
"""Reads and writes each number once, where norm, rotation and joined halves move five times as much."""


def rotary_norm(x: mx.array, norm: nn.RMSNorm, table: RotaryTable, num_heads: int) -> mx.array:
    """Normalize over all heads together, then turn each pair of channels by its token's angle.

    Args:
        x: queries or keys [L, N·D], any floating type.
        norm: over N·D channels.
        table: of L tokens and D channels.
        num_heads: N.

    Returns:
        [L, N, D] in the type that `norm` gives.
    """
    length, dim = x.shape
    shape = (length, num_heads, dim // num_heads)
    if not (ROTARY_NORM.is_chosen and norm.weight.dtype == x.dtype):
        return rotate(norm(x).reshape(shape), table)
    turned = ROTARY_NORM.run(
        (x, norm.weight, table.cos, table.sin, mx.array(norm.eps)),
        constants={"T": x.dtype, "DIM": dim, "ANGLES": table.cos.shape[-1]},
        threads=length * ROW_THREADS,
        group=ROW_THREADS,
        shape=(length, dim),
        dtype=x.dtype,
    )
    return turned.reshape(shape)
