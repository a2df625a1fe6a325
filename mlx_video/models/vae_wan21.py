"""The Wan2.1 video autoencoder: 16 latent channels, one latent cell for 4×8×8 pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import VAEConfig
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
from mlx_video.models.vae_stream import FRAME_BY_FRAME, Layer, StreamState, check_half, run_stages

PIXEL_CHANNELS = 3


class Decoder(nn.Module):
    """Latent features → pixels, through four resolutions.

    Args:
        width: channels of the last stage.
        z_dim: channels of a latent.

    Source: Wan2.1 wan/modules/vae.py, Decoder3d.
    """

    def __init__(self, width: int, z_dim: int) -> None:
        super().__init__()
        widths = (4 * width, 4 * width, 4 * width, 2 * width, width)
        self.conv1 = CausalConv3d(z_dim, widths[0])
        self.middle = middle_layers(widths[0])
        self.upsamples: list[ResidualBlock | Upsample] = []
        for stage, (into, out) in enumerate(pairwise(widths)):
            into = into if stage == 0 else into // 2  # every upsampling halves the channels
            self.upsamples += [ResidualBlock(into, out), ResidualBlock(out, out), ResidualBlock(out, out)]
            if stage < 3:
                self.upsamples.append(Upsample(out, out // 2, doubles_time=stage < 2))
        self.head = head_layers(width, PIXEL_CHANNELS)

    def __call__(
        self, x: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Decode the stream's next latents.

        Args:
            x: [B, T, H, W, z_dim].
            state: of this stream.
            parts: frames that each resolution takes at a time, lowest resolution first.

        Yields:
            Pixels [B, f, 8H, 8W, 3] in order of time: 4T frames in all, 3 less in the stream's first call.
        """
        layers = self.upsamples
        last: list[Layer] = [*layers[12:15], partial(apply_head, self.head)]
        stages: list[Sequence[Layer]] = [
            [self.conv1, *self.middle],
            layers[0:4],
            layers[4:8],
            layers[8:12],
            last,
        ]
        yield from run_stages(stages, x, (x.shape[1], *parts), state)


class Encoder(nn.Module):
    """Pixels → features of twice the latent's channels, through four resolutions.

    Args:
        width: channels of the first stage.
        out_channels: of the features.

    Source: Wan2.1 wan/modules/vae.py, Encoder3d.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        widths = (width, width, 2 * width, 4 * width, 4 * width)
        self.conv1 = CausalConv3d(PIXEL_CHANNELS, width)
        self.downsamples: list[ResidualBlock | Downsample] = []
        for stage, (into, out) in enumerate(pairwise(widths)):
            self.downsamples += [ResidualBlock(into, out), ResidualBlock(out, out)]
            if stage < 3:
                self.downsamples.append(Downsample(out, halves_time=stage > 0))
        self.middle = middle_layers(widths[-1])
        self.head = head_layers(widths[-1], out_channels)

    def __call__(
        self, x: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Encode the stream's next frames.

        Args:
            x: [B, F, H, W, 3], any number of frames, H and W multiples of 8.
            state: of this stream.
            parts: frames that each resolution takes at a time, highest resolution first.

        Yields:
            Features [B, t, H/8, W/8, out_channels] in order of time: one latent frame for the stream's first
            frame, and one for every four frames that follow.
        """
        layers = self.downsamples
        last: list[Layer] = [*layers[9:11], *self.middle, partial(apply_head, self.head)]
        stages: list[Sequence[Layer]] = [[self.conv1, *layers[0:3]], layers[3:6], layers[6:9], last]
        yield from run_stages(stages, x, parts, state)


class WanVAE21(nn.Module):
    """Encoder and decoder halves; parameters carry the checkpoint's names.

    Args:
        config: widths; a half whose width is None is left out.

    Source: Wan2.1 wan/modules/vae.py, WanVAE_.
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
            Pixels [B, f, 8H, 8W, 3], not clamped: 4T frames in all, 3 less in the stream's first call.

        Raises:
            ValueError: the decoder is absent, or the latents do not continue this stream.
        """
        check_half(self, "decoder")
        state.admit(latents)
        yield from self.decoder(self.conv2(latents), state, parts)

    def encode(
        self, frames: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Encode the stream's next frames.

        Args:
            frames: [B, F, H, W, 3] in [-1, 1], H and W multiples of 8.
            state: of this stream; a fresh one for every clip.
            parts: frames that each resolution takes at a time, highest resolution first.

        Yields:
            Means [B, t, H/8, W/8, C] of the latents, not normalised; one for the stream's first frame, one
            for every four that follow.

        Raises:
            ValueError: the encoder is absent, or the frames do not continue this stream.
        """
        check_half(self, "encoder")
        state.admit(frames)
        for features in self.encoder(frames, state, parts):
            # The other half of the channels is the variance, which is never drawn from.
            yield self.conv1(features)[..., : self.config.z_dim]
