"""The table of operations that are checked: at which sizes, how exact, and the fallbacks of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import mlx.core as mx

from mlx_video.device.trials import (
    Trial,
    gelu_by_erf,
    gelu_by_tanh,
    silu_by_exp,
    try_attention,
    try_biased_attention,
    try_causal_convolution,
    try_channel_norm,
    try_channel_norm_and_silu,
    try_doubling,
    try_elementwise,
    try_halving,
    try_layer_norm,
    try_product,
    try_quantized_product,
    try_rms_norm,
    try_rotary_norm,
    try_rotation,
    try_small_frames,
    try_softmax,
    try_time_convolution,
)
from mlx_video.models.dispatch import UNPACKED_ROWS, packing_name
from mlx_video.models.elementwise import add_gated, add_residual, gelu_erf, gelu_tanh
from mlx_video.models.kernels.channel_norm import CHANNEL_NORM, silu
from mlx_video.models.kernels.layer_norm import LAYER_NORM
from mlx_video.models.kernels.metal_kernel import MetalKernel
from mlx_video.models.kernels.rotary_norm import ROTARY_NORM

GARBAGE = 0.1
"""Relative error that no rounding explains: garbage has about 1, products of 4-bit weights less than 0.02."""

BFLOAT16_PRODUCT, FLOAT16_PRODUCT = "product, bfloat16", "product, float16"

Size = tuple[int, ...]
Change = bool | int | str
Sizes = Literal["small", "medium", "full"]

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16


@dataclass(frozen=True, slots=True)
class Fallback:
    """Another way to compute the same: of a faulty operation, or one that may be faster.

    Attributes:
        text: what is done instead.
        changes: fields of `models.dispatch.Limits` that make it so; what one of sets gains.
    """

    text: str
    changes: Mapping[str, Change]


@dataclass(frozen=True, slots=True)
class Operation:
    """Something the networks compute, and how it is tried.

    Attributes:
        name: for people.
        build: takes a size and gives the trial.
        small: a size for a fraction of a second in all, on a CPU.
        medium: a size for about a second in all, on the slowest GPU.
        full: a size that videos reach.
        fallbacks: to take in turn where the result is wrong; none where there is none.
        alternatives: of which a GPU takes the fastest, where the result is right.
        is_quick: belongs to the check before a run.
        wrong_above: relative error that counts as garbage.
        gives_rate: its time tells how fast attention is.
    """

    name: str
    build: Callable[..., Trial]
    small: Size
    medium: Size
    full: Size
    fallbacks: tuple[Fallback, ...] = ()
    alternatives: tuple[Fallback, ...] = field(default=(), kw_only=True)
    is_quick: bool = field(default=True, kw_only=True)
    wrong_above: float = field(default=GARBAGE, kw_only=True)
    gives_rate: bool = field(default=False, kw_only=True)

    def size(self, sizes: Sizes) -> Size:
        """One of the three sizes."""
        return {"small": self.small, "medium": self.medium, "full": self.full}[sizes]


_UNFUSED = (Fallback("elementwise work is not fused", {"fuses": False}),)
_WRITTEN_OUT = (Fallback("attention is written out", {"fused_attention": False}),)
_UNPACKED = (
    Fallback("at most 8,192 rows at a time", {"quantized_rows": 8192}),
    Fallback("quantized weights are unpacked for every product", {"quantized_matmul": False}),
)
_SHIFTED = (Fallback("convolutions run as matrix products", {"plane_convolutions": False}),)
_NOT_WINOGRAD = (Fallback("convolutions avoid Winograd's method", {"winograd": False}), *_SHIFTED)


def _many_rows(bits: int, group_size: int) -> Operation:
    """A product of as many rows as a video has tokens, by packed weights or by the same unpacked."""
    name = packing_name(bits, group_size)
    return Operation(
        f"product of many rows, {name}",
        partial(try_quantized_product, dtype=BF16, bits=bits, group_size=group_size),
        (192, 256, 384), (UNPACKED_ROWS, 1536, 1536), (4 * UNPACKED_ROWS, 5120, 5120), _UNPACKED,
        alternatives=(Fallback("weights are unpacked once for all rows", {"unpacked": name}),),
    )  # fmt: skip


def _build_rotation(t: int, h: int, w: int, heads: int, head_dim: int) -> Trial:
    return try_rotation((t, h, w), heads, head_dim, BF16)


def _build_rotary_norm(t: int, h: int, w: int, heads: int, head_dim: int) -> Trial:
    return try_rotary_norm((t, h, w), heads, head_dim, BF16)


def _kernel(kernel: MetalKernel) -> tuple[Fallback, ...]:
    return (Fallback("one kernel of ours does all of it", {"kernels": kernel.name}),)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        BFLOAT16_PRODUCT, partial(try_product, dtype=BF16),
        (192, 512, 384), (2048, 4096, 4096), (4096, 13824, 5120),
    ),
    Operation(
        FLOAT16_PRODUCT, partial(try_product, dtype=F16),
        (192, 512, 384), (2048, 4096, 4096), (4096, 13824, 5120), is_quick=False,
    ),
    Operation(
        "product, float32", partial(try_product, dtype=F32),
        (192, 512, 384), (1024, 1024, 1024), (2048, 4096, 4096),
    ),
    Operation(
        "quantized product, 8 bits", partial(try_quantized_product, dtype=BF16, bits=8),
        (192, 256, 384), (33000, 256, 1000), (65520, 1536, 8960), _UNPACKED,
    ),
    Operation(
        "quantized product, 4 bits", partial(try_quantized_product, dtype=BF16, bits=4),
        (192, 256, 384), (33000, 256, 1000), (65520, 1536, 8960), _UNPACKED,
    ),
    *(_many_rows(bits, group_size) for bits in (4, 8) for group_size in (32, 64, 128)),
    Operation(
        "attention among tokens", partial(try_attention, dtype=BF16),
        (2, 320, 320, 64), (4, 4096, 4096, 128), (4, 33000, 33000, 128), _WRITTEN_OUT,
        gives_rate=True,
    ),
    Operation(
        "attention to many keys", partial(try_attention, dtype=BF16),
        (1, 64, 1500, 64), (1, 512, 33000, 128), (2, 8192, 75600, 128), _WRITTEN_OUT,
    ),
    Operation(
        "attention to the text", partial(try_attention, dtype=BF16),
        (2, 320, 77, 64), (12, 4096, 512, 128), (12, 32760, 512, 128), _WRITTEN_OUT,
    ),
    Operation(
        "attention with a bias", partial(try_biased_attention, dtype=BF16),
        (4, 60, 16), (16, 512, 64), (64, 512, 64), _WRITTEN_OUT,
    ),
    Operation(
        "softmax", try_softmax, (64, 500), (256, 3600), (1024, 14400),
    ),
    Operation(
        "layer norm", try_layer_norm, (64, 1536), (2048, 1536), (32760, 5120),
    ),
    Operation(
        "layer norm, rounded", partial(try_layer_norm, dtype=BF16),
        (64, 1536), (2048, 1536), (32760, 5120), alternatives=_kernel(LAYER_NORM),
    ),
    Operation(
        "RMS norm", partial(try_rms_norm, dtype=BF16),
        (64, 1536), (2048, 1536), (32760, 5120),
    ),
    Operation(
        "channel norm", try_channel_norm, (400, 96), (6240, 96), (199680, 192),
    ),
    Operation(
        "channel norm and SiLU", try_channel_norm_and_silu,
        (400, 96), (6240, 96), (199680, 192), alternatives=_kernel(CHANNEL_NORM),
    ),
    Operation(
        "GELU by tanh", partial(try_elementwise, gelu_tanh, gelu_by_tanh, dtypes=(BF16,)),
        (64, 512), (512, 8960), (19392, 13824), _UNFUSED,
    ),
    Operation(
        "GELU by erf", partial(try_elementwise, gelu_erf, gelu_by_erf, dtypes=(F32,)),
        (64, 512), (257, 5120), (514, 5120), _UNFUSED,
    ),
    Operation(
        "SiLU", partial(try_elementwise, silu, silu_by_exp, dtypes=(F32,)),
        (64, 512), (6240, 96), (199680, 192), _UNFUSED,
    ),
    Operation(
        "sum", partial(try_elementwise, add_residual, lambda x, y: x + y, dtypes=(F32, BF16)),
        (64, 512), (2048, 1536), (32760, 5120), _UNFUSED,
    ),
    Operation(
        "gated sum",
        partial(
            try_elementwise,
            lambda x, y, gates: add_gated(x, y, gates[0]),
            lambda x, y, gates: x + y * gates[0],  # the sample begins with row 0
            dtypes=(F32, BF16, F32),
        ),
        (64, 512), (2048, 1536), (32760, 5120), _UNFUSED,
    ),
    Operation(
        "rotary positions", _build_rotation,
        (2, 3, 4, 2, 64), (1, 30, 52, 12, 128), (21, 30, 52, 12, 128), _UNFUSED,
    ),
    Operation(
        "norm and rotary positions", _build_rotary_norm,
        (2, 3, 4, 2, 64), (1, 30, 52, 12, 128), (21, 30, 52, 12, 128), alternatives=_kernel(ROTARY_NORM),
    ),
    Operation(
        "causal convolution", try_causal_convolution,
        (1, 6, 8, 32, 16), (1, 240, 416, 96, 96), (1, 480, 832, 96, 96), _SHIFTED,
        alternatives=(Fallback("temporal taps are convolved together", {"joins_taps": True}),),
    ),
    # Large enough for Winograd's method (see models.vae.winograd), which amplifies what its products lose.
    Operation(
        "causal convolution of many channels", try_causal_convolution,
        (1, 6, 8, 32, 32), (1, 72, 128, 192, 192), (2, 240, 416, 192, 192), _NOT_WINOGRAD, wrong_above=1e-3,
        alternatives=(Fallback("temporal taps are added in one operation", {"fuses_taps": True}),),
    ),
    Operation(
        "causal convolution of small frames", try_small_frames,
        (2, 4, 6, 32, 32), (2, 44, 80, 512, 512), (2, 44, 80, 1024, 1024), _NOT_WINOGRAD, wrong_above=1e-3,
        alternatives=(Fallback("small frames are decoded two at a time", {"pairs_latents": True}),),
    ),
    Operation(
        "convolution of pixels", try_causal_convolution,
        (1, 6, 8, 3, 16), (1, 60, 104, 3, 96), (2, 480, 832, 3, 96), _SHIFTED,
    ),
    Operation(
        "convolution along time", try_time_convolution,
        (1, 6, 8, 32, 16), (1, 30, 52, 384, 768), (2, 120, 208, 384, 768), is_quick=False,
    ),
    Operation(
        "convolution to twice the size", try_doubling,
        (1, 6, 8, 32, 16), (1, 120, 208, 192, 96), (2, 120, 208, 384, 192),
        alternatives=(Fallback("pixels are repeated, then convolved", {"repeats_pixels": True}),),
    ),
    Operation(
        "convolution to half the size", try_halving,
        (1, 6, 8, 32, 16), (1, 60, 104, 96, 96), (2, 240, 416, 96, 96),
    ),
)  # fmt: skip
"""Sources of the sizes: the published models' widths, and the sizes at which faults were reported (see
`known_faults`)."""
