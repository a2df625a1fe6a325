"""Winograd's method, by which MLX convolves large frames on a GPU: when, and in how much memory.

Source: mlx mlx/backend/metal/conv.cpp, dispatch_conv_2D_gpu and winograd_conv_2D_gpu.
"""

from __future__ import annotations

from itertools import pairwise

ITEM_BYTES = 4
TILE = 6
"""Rows and columns of pixels that one tile gives; it reads two more."""
POINTS = 64
"""Products for one tile and a pair of channels."""
LEAST_PIXELS = 4096
LEAST_CHANNELS = 256
"""Of the input and the output together."""
CHANNEL_STEP = 32
BAND_BYTES = 2**28
"""Scratch of a band of rows, about, where frames are cut into bands."""


def takes_winograd(pixels: int, into: int, out: int) -> bool:
    """Whether MLX convolves frames of 3×3 kernels and stride 1 by this method.

    Args:
        pixels: of all frames that one call convolves.
        into, out: channels.
    """
    fits = into % CHANNEL_STEP == 0 and out % CHANNEL_STEP == 0
    return fits and pixels >= LEAST_PIXELS and into + out >= LEAST_CHANNELS


def winograd_bytes(height: int, width: int, into: int, out: int, frames: int = 1) -> int:
    """Memory of one such convolution besides its input and its result, in float32.

    It holds the padded frames, all tiles of the input and of the result, transformed, and the kernel.
    """
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = (TILE * rows + 2) * (TILE * columns + 2) * into
    tiles = POINTS * rows * columns * (into + out)
    return ITEM_BYTES * (frames * (padded + tiles) + POINTS * into * out)


def cut_bands(height: int, width: int, into: int, out: int, frames: int = 1) -> list[range]:
    """Rows of bands, each of which a convolution by this method gives in about BAND_BYTES of scratch.

    Bands are of whole tiles, even in size, and large enough for the method.
    """
    of_kernel = winograd_bytes(0, 0, into, out, 0)
    one = winograd_bytes(TILE, width, into, out, frames) - of_kernel
    tiles, least = -(-height // TILE), -(-LEAST_PIXELS // (TILE * width * frames))
    longest = max(1, (BAND_BYTES - of_kernel) // one)
    count = max(1, min(-(-tiles // longest), tiles // least))
    ends = [min(TILE * (tiles * band // count), height) for band in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


def band_bytes(height: int, width: int, into: int, out: int, frames: int = 1) -> int:
    """Memory of the largest band while it is convolved: its input, padded, its scratch and its result."""
    rows = max(map(len, cut_bands(height, width, into, out, frames)))
    read = 2 * ITEM_BYTES * frames * (rows + 2) * width * into
    return read + winograd_bytes(rows, width, into, out, frames) + ITEM_BYTES * frames * rows * width * out
