"""The Wan2.2 video autoencoder: 48 latent channels, one latent cell for 4×16×16 pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import VAEConfig
from mlx_video.models.vae_convolutions import split_frames
from mlx_video.models.vae_layers import (
    CausalConv3d,
    Downsample,
    PointwiseConv,
    ResidualBlock,
    Upsample,
    apply_head,
    head_layers,
    middle_layers,
)
from mlx_video.models.vae_stream import (
    FRAME_BY_FRAME,
    Layer,
    StreamState,
    check_half,
    run_layers,
    run_stages,
)

# Three colours of 2×2 pixels: the networks work at half the resolution of the frames.
PACKED_CHANNELS = 12
LAST_STAGE = 3  # the one without resampling


def pack_pixels(frames: mx.array) -> mx.array:
    """Make the pixels of every 2×2 square channels of one position.

    Args:
        frames: [B, F, H, W, C], H and W even.

    Returns:
        [B, F, H/2, W/2, 4·C]; the colour is slowest, then the column, then the row.

    Source: Wan2.2 wan/modules/vae2_2.py, patchify.
    """
    batch, count, height, width, channels = frames.shape
    squares = frames.reshape(batch, count, height // 2, 2, width // 2, 2, channels)
    return squares.transpose(0, 1, 2, 4, 6, 5, 3).reshape(batch, count, height // 2, width // 2, -1)


def unpack_pixels(packed: mx.array) -> mx.array:
    """Undo :func:`pack_pixels`.

    Args:
        packed: [B, F, H, W, 4·C].

    Returns:
        [B, F, 2H, 2W, C].

    Source: Wan2.2 wan/modules/vae2_2.py, unpatchify.
    """
    batch, count, height, width, channels = packed.shape
    squares = packed.reshape(batch, count, height, width, channels // 4, 2, 2)
    return squares.transpose(0, 1, 2, 6, 3, 5, 4).reshape(batch, count, 2 * height, 2 * width, -1)


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


class Decoder(nn.Module):
    """Latent features → packed pixels, through four resolutions.

    Args:
        width: channels of the last stage.
        z_dim: channels of a latent.

    Source: Wan2.2 wan/modules/vae2_2.py, Decoder3d.
    """

    def __init__(self, width: int, z_dim: int) -> None:
        super().__init__()
        widths = (4 * width, 4 * width, 4 * width, 2 * width, width)
        self.conv1 = CausalConv3d(z_dim, widths[0])
        self.middle = middle_layers(widths[0])
        self.upsamples = [
            UpStage(into, out, doubles_space=stage < LAST_STAGE, doubles_time=stage < 2)
            for stage, (into, out) in enumerate(pairwise(widths))
        ]
        self.head = head_layers(width, PACKED_CHANNELS)

    def __call__(
        self, x: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Decode the stream's next latents.

        Args:
            x: [B, T, H, W, z_dim].
            state: of this stream.
            parts: frames that each resolution takes at a time, lowest resolution first.

        Yields:
            Packed pixels [B, f, 8H, 8W, 12] in order of time: 4T frames in all, 3 less in the stream's first
            call.
        """
        first, second, third, last = self.upsamples
        stages: list[Sequence[Layer]] = [
            [self.conv1, *self.middle],
            [first],
            [second],
            [third],
            [last, partial(apply_head, self.head)],
        ]
        yield from run_stages(stages, x, (x.shape[1], *parts), state)


class Encoder(nn.Module):
    """Packed pixels → features of twice the latent's channels, through four resolutions.

    Args:
        width: channels of the first stage.
        out_channels: of the features.

    Source: Wan2.2 wan/modules/vae2_2.py, Encoder3d.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        widths = (width, width, 2 * width, 4 * width, 4 * width)
        self.conv1 = CausalConv3d(PACKED_CHANNELS, width)
        self.downsamples = [
            DownStage(into, out, halves_space=stage < LAST_STAGE, halves_time=0 < stage < LAST_STAGE)
            for stage, (into, out) in enumerate(pairwise(widths))
        ]
        self.middle = middle_layers(widths[-1])
        self.head = head_layers(widths[-1], out_channels)

    def __call__(
        self, x: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Encode the stream's next frames.

        Args:
            x: packed pixels [B, F, H, W, 12], any number of frames, H and W multiples of 8.
            state: of this stream.
            parts: frames that each resolution takes at a time, highest resolution first.

        Yields:
            Features [B, t, H/8, W/8, out_channels] in order of time: one latent frame for the stream's first
            frame, and one for every four frames that follow.
        """
        first, second, third, fourth = self.downsamples
        last: list[Layer] = [fourth, *self.middle, partial(apply_head, self.head)]
        stages: list[Sequence[Layer]] = [[self.conv1, first], [second], [third], last]
        yield from run_stages(stages, x, parts, state)


class WanVAE22(nn.Module):
    """Encoder and decoder halves; parameters carry the official checkpoint's names.

    Args:
        config: widths; a half whose width is None is left out.

    Source: Wan2.2 wan/modules/vae2_2.py, WanVAE_.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        if config.encoder_dim is not None:
            self.encoder = Encoder(config.encoder_dim, 2 * config.z_dim)
            self.conv1 = PointwiseConv(2 * config.z_dim, 2 * config.z_dim)
        if config.decoder_dim is not None:
            self.conv2 = PointwiseConv(config.z_dim, config.z_dim)
            self.decoder = Decoder(config.decoder_dim, config.z_dim)

    def decode(
        self, latents: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Decode the stream's next latents.

        Args:
            latents: [B, T, H, W, C], as the encoder gives them (not normalised).
            state: of this stream; a fresh one for every clip.
            parts: frames that each resolution takes at a time, lowest resolution first.

        Yields:
            Pixels [B, f, 16H, 16W, 3], not clamped: 4T frames in all, 3 less in the stream's first call.

        Raises:
            ValueError: the decoder is absent, or the latents do not continue this stream.
        """
        check_half(self, "decoder")
        state.admit(latents)
        for packed in self.decoder(self.conv2(latents), state, parts):
            yield unpack_pixels(packed)

    def encode(
        self, frames: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Encode the stream's next frames.

        Args:
            frames: [B, F, H, W, 3] in [-1, 1], H and W multiples of 16.
            state: of this stream; a fresh one for every clip.
            parts: frames that each resolution takes at a time, highest resolution first.

        Yields:
            Means [B, t, H/16, W/16, C] of the latents, not normalised; one for the stream's first frame, one
            for every four that follow.

        Raises:
            ValueError: the encoder is absent, or the frames do not continue this stream.
        """
        check_half(self, "encoder")
        state.admit(frames)
        for features in self.encoder(pack_pixels(frames), state, parts):
            # The other half of the channels is the variance, which is never drawn from.
            yield self.conv1(features)[..., : self.config.z_dim]
