"""Elementwise functions of the blocks, fused into single kernels where compiling is switched on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps

import mlx.core as mx

from mlx_video.models.dispatch import current_limits

Elementwise = Callable[..., mx.array]

_compile_choice: bool | None = None


def on_gpu() -> bool:
    """Whether new arrays are computed on a GPU."""
    return mx.default_device().type == mx.DeviceType.gpu


def enable_compile(on: bool | None) -> None:
    """Switch fusing on or off for every network of this process.

    Args:
        on: None restores the default, which is to fuse on a GPU only: fusing on a CPU calls the system's C++
            compiler at run time.
    """
    global _compile_choice
    _compile_choice = on


def is_compile_enabled() -> bool:
    """Whether the functions of this module run as fused kernels; never where the device fuses wrongly."""
    return current_limits().fuses and (on_gpu() if _compile_choice is None else _compile_choice)


def fused(function: Elementwise) -> Elementwise:
    """Let the switch of :func:`enable_compile` decide whether a function of arrays runs compiled.

    A compiled function keeps alive what it captures, so it may take arrays only, weights included.
    """
    compiled = mx.compile(function)

    @wraps(function)
    def call(*arrays: mx.array) -> mx.array:
        return compiled(*arrays) if is_compile_enabled() else function(*arrays)

    return call


@fused
def add_residual(x: mx.array, y: mx.array) -> mx.array:
    """x + y, for a `y` of another type than `x`.

    Args:
        x: residual stream [L, D], float32.
        y: [L, D], any floating type.

    Returns:
        [L, D], float32.
    """
    return x + y


@fused
def add_gated(x: mx.array, y: mx.array, gate: mx.array) -> mx.array:
    """x + y · gate.

    Args:
        x: residual stream [L, D], float32.
        y: what a layer adds to it, [L, D], any floating type.
        gate: [D], float32.

    Returns:
        [L, D], float32.
    """
    return x + y * gate


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU in its tanh form, 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).

    Args:
        x: any shape; half precision is widened inside, as PyTorch does.

    Returns:
        Shape and type of `x`.

    Source: arXiv 1606.08415.
    """
    # The power overflows below -10.7, where 1 / (1 + it) is 0 as it should be, but has no gradient.
    by_tanh = on_gpu() or current_limits().traces_gradients
    return _gelu_by_tanh(x) if by_tanh else _gelu_by_power(x)


@fused
def gelu_erf(x: mx.array) -> mx.array:
    """GELU as it is defined, 0.5·x·(1 + erf(x/√2)).

    Args:
        x: any shape; half precision is widened inside, as PyTorch does.

    Returns:
        Shape and type of `x`.

    Source: arXiv 1606.08415.
    """
    wide = x.astype(mx.float32)
    return (0.5 * wide * (1 + mx.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


_INNER = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _INNER
# 0.5·(1 + tanh u) = 1 / (1 + exp(-2u)), and exp(-2u) = 2^(-2u / ln 2).
_EXPONENT, _EXPONENT_CUBIC = -2 * _INNER / math.log(2), -2 * _CUBIC / math.log(2)


@fused
def _gelu_by_tanh(x: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    return (0.5 * wide * (1 + mx.tanh(wide * (_INNER + _CUBIC * wide * wide)))).astype(x.dtype)


@fused
def _gelu_by_power(x: mx.array) -> mx.array:
    # On a CPU a power of two costs less than half of a tanh or an exp.
    wide = x.astype(mx.float32)
    growth = mx.power(2.0, wide * (_EXPONENT + _EXPONENT_CUBIC * (wide * wide)))
    return (wide / (1 + growth)).astype(x.dtype)
