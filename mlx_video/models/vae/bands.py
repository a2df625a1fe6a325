"""Convolutions of large frames by Winograd's method, a band of rows at a time, since its scratch is large."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_video.models.vae.winograd import cut_bands


def convolve_joined(taps: Sequence[mx.array], weight: mx.array) -> mx.array:
    """Convolve temporal taps as channels of one frame, 3×3, padded by one pixel.

    Args:
        taps: T arrays [n, H, W, C].
        weight: [O, T, 3, 3, C].

    Returns:
        [n, H, W, O], without a bias.
    """
    kernel = weight.transpose(0, 2, 3, 1, 4).flatten(3)

    def rows(start: int, stop: int) -> mx.array:
        return mx.concatenate([tap[:, start:stop] for tap in taps], axis=-1)

    return _convolve_bands(rows, taps[-1].shape[:3], kernel)


def convolve_repeated(frames: mx.array, weight: mx.array) -> mx.array:
    """Double rows and columns by repeating pixels, then convolve 3×3, padded by one pixel.

    Args:
        frames: [n, H, W, C].
        weight: [O, 3, 3, C].

    Returns:
        [n, 2H, 2W, O], without a bias.
    """

    def rows(start: int, stop: int) -> mx.array:
        first = start // 2
        doubled = mx.repeat(mx.repeat(frames[:, first : -(-stop // 2)], 2, axis=1), 2, axis=2)
        return doubled[:, start - 2 * first : stop - 2 * first]

    count, height, width, _ = frames.shape
    return _convolve_bands(rows, (count, 2 * height, 2 * width), weight)


def _convolve_bands(
    rows: Callable[[int, int], mx.array], size: tuple[int, ...], kernel: mx.array
) -> mx.array:
    """Convolve what `rows` gives of frames [n, H, W], from a row to another, which lie beyond no border."""
    count, height, width = size
    bands = []
    for band in cut_bands(height, width, kernel.shape[-1], kernel.shape[0], count):
        start, stop = max(0, band.start - 1), min(height, band.stop + 1)
        edges = (start - (band.start - 1), band.stop + 1 - stop)
        padded = mx.pad(rows(start, stop), [(0, 0), edges, (0, 0), (0, 0)])
        bands.append(mx.conv2d(padded, kernel, padding=(0, 1)))
        mx.eval(bands[-1])  # so that its scratch goes before the next band's comes
    return bands[0] if len(bands) == 1 else mx.concatenate(bands, axis=1)
