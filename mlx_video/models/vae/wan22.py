"""The halves of the Wan2.2 video autoencoder: 48 latent channels, one latent cell for 4×16×16 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.vae.convolutions import split_frames
from mlx_video.models.vae.halves import LAST_STAGE, DecoderHalf, EncoderHalf, decoder_widths, encoder_widths
from mlx_video.models.vae.layers import Downsample, ResidualBlock, Upsample, apply_head
from mlx_video.models.vae.stream import Layer, StreamState, run_layers

# Three colours of 2×2 pixels: the networks work at half the resolution of the frames.
PACKED_CHANNELS = 12


def pack_pixels(frames: mx.array, side: int = 2) -> mx.array:
    """Make the pixels of every square channels of one position.

    Args:
        frames: [B, F, H, W, C], H and W multiples of `side`.
        side: of a square, in pixels; 1 changes nothing.

    Returns:
        [B, F, H/side, W/side, side²·C]; the colour is slowest, then the column, then the row.

    Source: Wan2.2 wan/modules/vae2_2.py, patchify.
    """
    batch, count, height, width, channels = frames.shape
    squares = frames.reshape(batch, count, height // side, side, width // side, side, channels)
    packed = squares.transpose(0, 1, 2, 4, 6, 5, 3)
    return packed.reshape(batch, count, height // side, width // side, -1)


def unpack_pixels(packed: mx.array, side: int = 2) -> mx.array:
    """Undo :func:`pack_pixels`.

    Args:
        packed: [B, F, H, W, side²·C].
        side: of a square, in pixels.

    Returns:
        [B, F, side·H, side·W, C].

    Source: Wan2.2 wan/modules/vae2_2.py, unpatchify.
    """
    batch, count, height, width, channels = packed.shape
    squares = packed.reshape(batch, count, height, width, channels // side**2, side, side)
    frames = squares.transpose(0, 1, 2, 6, 3, 5, 4)
    return frames.reshape(batch, count, side * height, side * width, -1)


def average_squares(x: mx.array) -> mx.array:
    """The mean of every 2×2 square: [B, T, H, W, C], H and W even → [B, T, H/2, W/2, C]."""
    batch, frames, height, width, channels = x.shape
    return x.reshape(batch, frames, height // 2, 2, width // 2, 2, channels).mean(axis=(3, 5))


def add_repeated(y: mx.array, x: mx.array) -> mx.array:
    """Add to a stage's output its input, doubled by repeating pixels and, where `y` has more, frames.

    Args:
        y: [B, t, 2H, 2W, O]; t is T, or 2T, or 2T - 1 where a stream's first frame stayed one.
        x: [B, T, H, W, O], or of 2·O channels: then the pairs of channels lie below each other.

    Returns:
        Shape of `y`.

    Source: Wan2.2 wan/modules/vae2_2.py, DupUp3D, with the factors of Decoder3d.
    """
    batch, frames, height, width, channels = x.shape
    if y.shape[1] != frames:
        x = mx.repeat(x, 2, axis=1)[:, -y.shape[1] :]
    out = y.shape[-1]
    rows = x.reshape(batch, -1, height, width, out, channels // out).transpose(0, 1, 2, 5, 3, 4)
    # Broadcast: the repeated pixels are never written out.
    squares = y.reshape(batch, -1, height, 2, width, 2, out) + rows[:, :, :, :, :, None]
    return squares.reshape(y.shape)


class UpStage(nn.Module):
    """Three residual blocks and an upsampling, around which the input passes repeated; the last has neither.

    Args:
        in_channels, out_channels: before and after.
        doubles_space: rows and columns double.
        doubles_time: every frame but the clip's first becomes two.

    Source: Wan2.2 wan/modules/vae2_2.py, Up_ResidualBlock.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, doubles_space: bool, doubles_time: bool
    ) -> None:
        super().__init__()
        self.upsamples: list[ResidualBlock | Upsample] = [
            ResidualBlock(in_channels, out_channels),
            ResidualBlock(out_channels, out_channels),
            ResidualBlock(out_channels, out_channels),
        ]
        self._doubles_space = doubles_space
        if doubles_space:
            self.upsamples.append(Upsample(out_channels, out_channels, doubles_time=doubles_time))

    def __call__(self, x: mx.array, state: StreamState) -> mx.array:
        """[B, T, H, W, C] → [B, t, 2H, 2W, O], or [B, T, H, W, O] where nothing doubles."""
        y = run_layers(self.upsamples, x, state)
        assert y is not None  # only downsampling waits for frames
        return add_repeated(y, x) if self._doubles_space else y


class DownStage(nn.Module):
    """Two residual blocks and a downsampling, around which the input passes averaged.

    Where time is halved, two averaged frames become the even and the odd channels of one; the clip's first
    frame has zeros for its partner. A frame whose partner has not come yet waits.

    Args:
        in_channels, out_channels: before and after; twice as many after where time is halved, else equal.
        halves_space: rows and columns are halved.
        halves_time: 1 + 2n frames become 1 + n.

    Source: Wan2.2 wan/modules/vae2_2.py, Down_ResidualBlock and AvgDown3D, with the factors of Encoder3d.
    """

    def __init__(self, in_channels: int, out_channels: int, *, halves_space: bool, halves_time: bool) -> None:
        super().__init__()
        self.downsamples: list[ResidualBlock | Downsample] = [
            ResidualBlock(in_channels, out_channels),
            ResidualBlock(out_channels, out_channels),
        ]
        self._halves_space, self._halves_time = halves_space, halves_time
        if halves_space:
            self.downsamples.append(Downsample(out_channels, halves_time=halves_time))

    def __call__(self, x: mx.array, state: StreamState) -> mx.array | None:
        """[B, T, H, W, C] → [B, t, H/2, W/2, O] (H and W where nothing halves); None while frames wait."""
        shortcut = average_squares(x) if self._halves_space else x
        paired = self._pair_frames(shortcut, state) if self._halves_time else shortcut
        y = run_layers(self.downsamples, x, state)
        # Both ways wait for the same frames.
        return None if y is None or paired is None else y + paired

    def _pair_frames(self, x: mx.array, state: StreamState) -> mx.array | None:
        before = state.recall(self) if state.has_seen(self) else [mx.zeros_like(x[:, :1])]
        frames = mx.concatenate([*before, x], axis=1)
        batch, length, height, width, channels = frames.shape
        count = length // 2
        state.keep(self, split_frames(frames[:, 2 * count :], 1))
        if not count:
            return None
        pairs = frames[:, : 2 * count].reshape(batch, count, 2, height, width, channels)
        return pairs.transpose(0, 1, 3, 4, 5, 2).reshape(batch, count, height, width, 2 * channels)


class Decoder(DecoderHalf):
    """Latent features → packed pixels, through four resolutions.

    Args:
        width: channels of the last stage.
        z_dim: channels of a latent.

    Source: Wan2.2 wan/modules/vae2_2.py, Decoder3d.
    """

    def __init__(self, width: int, z_dim: int) -> None:
        super().__init__(width, z_dim, PACKED_CHANNELS)
        self.upsamples = [
            UpStage(into, out, doubles_space=stage < LAST_STAGE, doubles_time=stage < 2)
            for stage, (into, out) in enumerate(pairwise(decoder_widths(width)))
        ]

    def stages(self) -> list[Sequence[Layer]]:
        """The four stages, lowest resolution first; the last one ends with the head."""
        first, second, third, last = self.upsamples
        return [[first], [second], [third], [last, partial(apply_head, self.head)]]


class Encoder(EncoderHalf):
    """Packed pixels → features of twice the latent's channels, through four resolutions.

    Args:
        width: channels of the first stage.
        out_channels: of the features.

    Source: Wan2.2 wan/modules/vae2_2.py, Encoder3d.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(width, PACKED_CHANNELS, out_channels)
        self.downsamples = [
            DownStage(into, out, halves_space=stage < LAST_STAGE, halves_time=0 < stage < LAST_STAGE)
            for stage, (into, out) in enumerate(pairwise(encoder_widths(width)))
        ]

    def stages(self) -> list[Sequence[Layer]]:
        """The four stages, highest resolution first; the first one begins with `conv1`."""
        first, second, third, fourth = self.downsamples
        return [[self.conv1, first], [second], [third], [fourth]]
