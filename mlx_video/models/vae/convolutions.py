"""Convolutions over the frames of a stream, as functions of arrays, channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from mlx_video.models.dispatch import current_limits
from mlx_video.models.elementwise import fused, on_gpu
from mlx_video.models.matmul import in_chunks
from mlx_video.models.vae.bands import convolve_joined, convolve_repeated
from mlx_video.models.vae.winograd import takes_winograd

# With fewer input channels, gathering the neighbours of every pixel costs less than many thin products.
MIN_CHANNELS_OF_SHIFTED = 32
# Elements of a sum. MLX takes the memory of all 27 products before it computes the first, which is too much
# for large frames; for small ones, to wait for each would take longer than the products.
MAX_UNEVALUATED = 2**14


def split_frames(x: mx.array, size: int) -> list[mx.array]:
    """Cut [B, T, H, W, C] into views of at most `size` frames, in order."""
    return [x[:, start : start + size] for start in range(0, x.shape[1], size)]


def causal_taps(x: mx.array, kept: Sequence[mx.array], count: int) -> list[mx.array]:
    """What each temporal tap of a causal kernel reads to compute one output frame per frame of `x`.

    Args:
        x: [B, T, H, W, C], the next frames of a stream.
        kept: at most count - 1 frames [B, 1, H, W, C] that came before, oldest first.
        count: taps of the kernel.

    Returns:
        Arrays [B, T, H, W, C], the oldest tap first, the newest (`x` itself) last. Before a stream's first
        frame lie zeros: taps that would read nothing else are left out, so a first frame costs one tap.
    """
    if x.shape[1] == 1:
        return [*kept, x]
    zeros = [mx.zeros_like(x[:, :1])] * (count - 1 - len(kept))
    window = mx.concatenate([*zeros, *kept, x], axis=1)
    return [window[:, start : start + x.shape[1]] for start in range(count)]


def convolve_taps(taps: Sequence[mx.array], weight: mx.array, bias: mx.array) -> mx.array:
    """3×3×3 convolution, padded by one pixel, of frames already laid out by tap.

    Args:
        taps: 1 to 3 arrays [B, T, H, W, C], the newest last; see :func:`causal_taps`.
        weight: [O, 3, 3, 3, C] (time, rows, columns).
        bias: [O].

    Returns:
        [B, T, H, W, O].

    Source: Wan2.1 wan/modules/vae.py, CausalConv3d.
    """
    used = weight[:, weight.shape[1] - len(taps) :]
    is_faster = on_gpu() or weight.shape[-1] < MIN_CHANNELS_OF_SHIFTED
    if is_faster and current_limits().plane_convolutions:
        return _by_planes(taps, used, bias)
    return _by_shifted_products(taps, used, bias)


def _by_planes(taps: Sequence[mx.array], weight: mx.array, bias: mx.array) -> mx.array:
    """One 2-D convolution per tap: the frames need not be copied into one window."""
    planes, pixels = [frames.flatten(0, 1) for frames in taps], math.prod(taps[-1].shape[:-1])
    out, count, *_, into = weight.shape
    has_scratch = _is_by_winograd(pixels, into, out)
    is_joined = current_limits().joins_taps and not has_scratch
    if is_joined and _is_by_winograd(pixels, count * into, out):
        return (convolve_joined(planes, weight) + bias).reshape(*taps[-1].shape[:-1], -1)
    total, waiting = bias, []
    for frames, kernel in zip(planes, weight.swapaxes(0, 1), strict=True):
        convolved = convolve_frames(frames, kernel, padding=1)
        if current_limits().fuses_taps:
            waiting.append(convolved)
        else:
            convolved = total = total + convolved
        if has_scratch:
            mx.eval(convolved)  # else the scratch of all taps would be taken at once
    if waiting:
        total = _add_taps(total, *waiting)
    return total.reshape(*taps[-1].shape[:-1], -1)


def _is_by_winograd(pixels: int, into: int, out: int) -> bool:
    """Whether MLX convolves frames of so many pixels by Winograd's method on this device."""
    return on_gpu() and current_limits().winograd and takes_winograd(pixels, into, out)


@fused
def _add_taps(bias: mx.array, *taps: mx.array) -> mx.array:
    for tap in taps:
        bias = bias + tap
    return bias


def convolve_frames(frames: mx.array, weight: mx.array, padding: int = 0, stride: int = 1) -> mx.array:
    """2-D convolution of [n, H, W, C], a few frames at a time where all would take a GPU too long."""
    flops = 2 * math.prod(frames.shape[1:3]) * weight.size // stride**2
    return in_chunks(
        lambda part: mx.conv2d(part, weight, stride=stride, padding=padding),
        frames,
        current_limits().rows(flops=flops, fewest=1),
    )


def _by_shifted_products(taps: Sequence[mx.array], weight: mx.array, bias: mx.array) -> mx.array:
    """One matrix product per kernel element, over frames shifted by it.

    MLX's CPU convolution first copies all 27 neighbours of every pixel; in rows of W + 2 pixels, laid end to
    end, a neighbour is at a fixed distance, so a shift is a view and nothing is copied. The two pixels that
    follow each row give values that are dropped.
    """
    height, width = taps[-1].shape[2:4]
    row = width + 2
    kernels = weight.transpose(1, 2, 3, 4, 0)
    total = bias
    for frames, kernel in zip(taps, kernels, strict=True):
        # One more row below: the last shifts run two pixels past the padding.
        padded = mx.pad(frames.flatten(0, 1), [(0, 0), (1, 2), (1, 1), (0, 0)]).flatten(1, 2)
        for y in range(3):
            for x in range(3):
                start = y * row + x
                total = mx.addmm(total, padded[:, start : start + height * row], kernel[y, x])
                if total.size > MAX_UNEVALUATED:
                    mx.eval(total)
    return total.reshape(*taps[-1].shape[:3], row, -1)[:, :, :, :width]


def multiply_taps(taps: Sequence[mx.array], weight: mx.array, bias: mx.array) -> mx.array:
    """k×1×1 convolution, as one matrix product per tap.

    Args:
        taps: 1 to k arrays [B, T, H, W, C], the newest last; missing ones count as zeros.
        weight: [O, k, 1, 1, C].
        bias: [O].

    Returns:
        [B, T, H, W, O].
    """
    kernels = weight[:, weight.shape[1] - len(taps) :].squeeze((2, 3)).transpose(1, 2, 0)
    total = bias
    for frames, kernel in zip(taps, kernels, strict=True):
        # Flattened: for arrays of more axes MLX copies the kernel for every row.
        total = mx.addmm(total, frames.flatten(0, -2), kernel)
    return total.reshape(*taps[-1].shape[:-1], -1)


def convolve_doubled(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Double rows and columns by repeating pixels, then convolve 3×3, padded by one pixel.

    The nine neighbours of a doubled pixel are only four pixels of `x`; which ones, depends on whether its row
    and column are even or odd. So there are four 2×2 kernels over `x`, run as one convolution: 4/9 of the
    work, and the doubled frames are never written out.

    Args:
        x: [B, T, H, W, C].
        weight: [O, 3, 3, C].
        bias: [O].

    Returns:
        [B, T, 2H, 2W, O].

    Source: Wan2.1 wan/modules/vae.py, Resample (upsample2d).
    """
    pixels, (out, *_, into) = 4 * x.shape[0] * x.shape[2] * x.shape[3], weight.shape
    if current_limits().repeats_pixels and _is_by_winograd(pixels, into, out):
        return _repeat_frames(x, weight, bias)
    kernels = _phase_kernels(weight)
    # What led to the kernels and to the frames goes before the next arrays come.
    mx.eval(x, kernels)
    doubled = []
    for frame in split_frames(x, 1):
        doubled.append(_convolve_phases(frame, kernels, bias))
        mx.eval(doubled[-1])
    return mx.concatenate(doubled, axis=1)


def _repeat_frames(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """What :func:`convolve_doubled` gives, by repeating the pixels of a few rows at a time."""
    doubled = []
    for frame in split_frames(x, 1):
        doubled.append((convolve_repeated(frame.squeeze(1), weight) + bias)[:, None])
        mx.eval(doubled[-1])
    return mx.concatenate(doubled, axis=1)


def _convolve_phases(frame: mx.array, kernels: mx.array, bias: mx.array) -> mx.array:
    """[B, 1, H, W, C] → [B, 1, 2H, 2W, O]."""
    batch, _, height, width, _ = frame.shape
    padded = mx.pad(frame.squeeze(1), [(0, 0), (1, 1), (1, 1), (0, 0)])
    phases = convolve_frames(padded, kernels) + mx.tile(bias, 4)
    top, bottom = (
        mx.stack([_phase(phases, row, column, height, width) for column in range(2)], axis=3)
        for row in range(2)
    )
    return mx.stack([top, bottom], axis=2).reshape(batch, 1, 2 * height, 2 * width, -1)


def _phase_kernels(weight: mx.array) -> mx.array:
    """[O, 3, 3, C] → [4·O, 2, 2, C]: kernels of (row parity, column parity), column parity faster."""
    rows = [_halve_kernel(weight, parity, axis=1) for parity in range(2)]
    return mx.concatenate([_halve_kernel(kernel, parity, axis=2) for kernel in rows for parity in range(2)])


def _halve_kernel(weight: mx.array, parity: int, axis: int) -> mx.array:
    """Three taps on doubled pixels as two on the originals: even (0 | 1+2), odd (0+1 | 2)."""
    first, middle, last = mx.split(weight, 3, axis=axis)
    pair = [first + middle, last] if parity else [first, middle + last]
    return mx.concatenate(pair, axis=axis)


def _phase(phases: mx.array, row: int, column: int, height: int, width: int) -> mx.array:
    """The output pixels of one parity, [N, H, W, O], from [N, H+1, W+1, 4·O]."""
    channels = phases.shape[-1] // 4
    start = (2 * row + column) * channels
    return phases[:, row : row + height, column : column + width, start : start + channels]


def convolve_halved(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """3×3 convolution at every second pixel; zeros only beyond the right and the lower border.

    Args:
        x: [B, T, H, W, C], H and W even.
        weight: [O, 3, 3, C].
        bias: [O].

    Returns:
        [B, T, H/2, W/2, O].

    Source: Wan2.1 wan/modules/vae.py, Resample (downsample2d).
    """
    padded = mx.pad(x.flatten(0, 1), [(0, 0), (0, 1), (0, 1), (0, 0)])
    halved = convolve_frames(padded, weight, stride=2) + bias
    return halved.reshape(*x.shape[:2], *halved.shape[1:])
