"""Bytes that single layers of the VAEs need: while they run, afterwards, and for what they give."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlx_video.models.dispatch import Limits
from mlx_video.models.vae.convolutions import MIN_CHANNELS_OF_SHIFTED
from mlx_video.models.vae.layers import QUERIES_AT_A_TIME
from mlx_video.models.vae.winograd import band_bytes, takes_winograd, winograd_bytes

ITEM_BYTES = 4
TAPS = 3
KERNEL_PIXELS = 9
KEPT = TAPS - 1  # frames that a kernel of three taps keeps


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows and columns of a frame at one resolution.

    Attributes:
        gpu: which ways to convolve them the GPU takes; None on a CPU.
    """

    height: int
    width: int
    gpu: Limits | None = None

    def nbytes(self, channels: int, frames: int = 1) -> int:
        """Of so many frames of so many channels."""
        return self.height * self.width * channels * frames * ITEM_BYTES

    def by_winograd(self, into: int, out: int, frames: int = 1) -> bool:
        """Whether MLX convolves them by Winograd's method."""
        if self.gpu is None or not (self.gpu.plane_convolutions and self.gpu.winograd):
            return False
        return takes_winograd(self.height * self.width * frames, into, out)

    def grown(self, rows: int, columns: int) -> Frame:
        """With padding."""
        return replace(self, height=self.height + rows, width=self.width + columns)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of one layer.

    Attributes:
        working: while it runs, beside its input and what layers keep.
        kept: of earlier frames, afterwards.
        given: its output.
    """

    working: int
    kept: int
    given: int


def causal_conv(frame: Frame, into: int, out: int, frames: int = 1) -> Need:
    """Norm, SiLU and a 3×3×3 convolution."""
    entry = frame.nbytes(into, frames)
    # Norm or SiLU beside its result, and what no longer is kept. One frame is kept as it is, several are
    # copied: then the result and the window of all taps count too.
    before = entry + frame.nbytes(into) if frames == 1 else 2 * entry + frame.nbytes(into, frames + KEPT)
    if into < MIN_CHANNELS_OF_SHIFTED:
        # For each tap the padded frames, the neighbours of every pixel, and the result.
        taps = TAPS * (
            frame.grown(2, 2).nbytes(into, frames) + KERNEL_PIXELS * entry + frame.nbytes(out, frames)
        )
    elif frame.by_winograd(into, out, frames):
        # The scratch; the results of all taps, or what was added before and one; and the sum.
        taps = winograd_bytes(frame.height, frame.width, into, out, frames) + 4 * frame.nbytes(out, frames)
    elif frame.gpu and frame.gpu.joins_taps and frame.by_winograd(TAPS * into, out, frames):
        # A band; all bands, joined, and their sum with the bias.
        taps = band_bytes(frame.height, frame.width, TAPS * into, out, frames) + 3 * frame.nbytes(out, frames)
    else:
        # The padded frames of a tap; sums before a product, after it, and one that is being released; and the
        # matrix of one kernel pixel, which MLX copies out of the kernel.
        sums = 3 * frame.grown(0, 2).nbytes(out, frames)
        taps = frame.grown(3, 2).nbytes(into, frames) + sums + into * out * ITEM_BYTES
    return Need(before + taps, frame.nbytes(into, KEPT), frame.grown(0, 2).nbytes(out, frames))


def residual_block(frame: Frame, into: int, out: int, frames: int = 1) -> Need:
    """Two convolutions, the second of which runs while the block's input waits."""
    first, second = causal_conv(frame, into, out, frames), causal_conv(frame, out, out, frames)
    working = max(first.working, first.given + second.working)
    return Need(working, first.kept + second.kept, frame.nbytes(out, frames))


def attention(frame: Frame, channels: int) -> Need:
    """Attention of one frame: norm, query, key and value and copies of each, rows of scores, result."""
    positions = frame.height * frame.width
    chunks = -(-positions // QUERIES_AT_A_TIME)
    scores = -(-positions // chunks) * positions * ITEM_BYTES
    return Need(9 * frame.nbytes(channels) + scores, 0, frame.nbytes(channels))


def upsampling(frame: Frame, into: int, out: int, frames: int = 1, *, doubles_time: bool) -> Need:
    """Each frame becomes one or two of twice the rows and columns."""
    count = 2 * frames if doubles_time else frames
    # Four of 2×2 pixels; to make them takes sums and pairs of rows, then of columns.
    kernels, made = 16 * into * out * ITEM_BYTES, 58 * into * out * ITEM_BYTES
    doubled, given = frame.nbytes(into, count) if doubles_time else 0, 4 * frame.nbytes(out)
    padded, phases = frame.grown(2, 2).nbytes(into), frame.grown(1, 1)
    # Padded and copied, four neighbours of every pixel, four phases, their pairs, all together.
    twice = replace(frame, height=2 * frame.height, width=2 * frame.width)
    one = 2 * padded + phases.nbytes(4 * into) + phases.nbytes(4 * out) + 2 * given
    if frame.gpu and frame.gpu.repeats_pixels and twice.by_winograd(into, out):
        # A band; all bands, joined, and their sum with the bias.
        one, kernels, made = band_bytes(twice.height, twice.width, into, out) + 3 * given, 0, 0
    # Sums of the three taps and of frames in order; the frames before this one, or all once more.
    in_time = TAPS * frame.nbytes(2 * into, frames) + doubled if doubles_time else 0
    working = max(in_time + made, doubled + kernels + one + (count - 1) * given, 2 * count * given)
    return Need(working, frame.nbytes(into, KEPT) if doubles_time else 0, count * given)


def downsampling(frame: Frame, channels: int, *, halves_time: bool) -> Need:
    """One frame of half the rows and columns; two of them, or one and the next, become one."""
    halved = replace(frame, height=frame.height // 2, width=frame.width // 2)
    padded = frame.grown(1, 1).nbytes(channels)
    working = 2 * padded + 10 * halved.nbytes(channels)
    return Need(working, halved.nbytes(channels, KEPT) if halves_time else 0, halved.nbytes(channels))
