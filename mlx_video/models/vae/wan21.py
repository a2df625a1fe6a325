"""The halves of the Wan2.1 video autoencoder: 16 latent channels, one latent cell for 4×8×8 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import mlx.core as mx

from mlx_video.models.vae.halves import DecoderHalf, EncoderHalf, decoder_widths, encoder_widths
from mlx_video.models.vae.layers import Downsample, ResidualBlock, Upsample, apply_head
from mlx_video.models.vae.stream import Layer

PIXEL_CHANNELS = 3


def shuffle_pixels(frames: mx.array, scale: int) -> mx.array:
    """Make the channels of every position a square of pixels.

    Not the order of Wan2.2's packed frames, in which a square's column is slower than its row.

    Args:
        frames: [B, F, H, W, C·scale²]; the colour is slowest, then the row within a square, then the column.
        scale: side of a square, in pixels; 1 changes nothing.

    Returns:
        [B, F, scale·H, scale·W, C].

    Source: PyTorch torch.nn.functional.pixel_shuffle, as spacepxl/ComfyUI-VAE-Utils nodes.py,
        VAEUtils_VAEDecodeTiled applies it to every frame.
    """
    if scale == 1:
        return frames
    batch, count, height, width, channels = frames.shape
    squares = frames.reshape(batch, count, height, width, channels // scale**2, scale, scale)
    pixels = squares.transpose(0, 1, 2, 5, 3, 6, 4)
    return pixels.reshape(batch, count, scale * height, scale * width, -1)


class Decoder(DecoderHalf):
    """Latent features → pixels, through four resolutions.

    Args:
        width: channels of the last stage.
        z_dim: channels of a latent.
        out_channels: of a pixel; those of a square of pixels where the VAE makes larger frames.

    Source: Wan2.1 wan/modules/vae.py, Decoder3d.
    """

    def __init__(self, width: int, z_dim: int, out_channels: int = PIXEL_CHANNELS) -> None:
        super().__init__(width, z_dim, out_channels)
        self.upsamples: list[ResidualBlock | Upsample] = []
        for stage, (into, out) in enumerate(pairwise(decoder_widths(width))):
            into = into if stage == 0 else into // 2  # every upsampling halves the channels
            self.upsamples += [ResidualBlock(into, out), ResidualBlock(out, out), ResidualBlock(out, out)]
            if stage < 3:
                self.upsamples.append(Upsample(out, out // 2, doubles_time=stage < 2))

    def stages(self) -> list[Sequence[Layer]]:
        """The four stages, lowest resolution first; the last one ends with the head."""
        layers = self.upsamples
        last: list[Layer] = [*layers[12:15], partial(apply_head, self.head)]
        return [layers[0:4], layers[4:8], layers[8:12], last]


class Encoder(EncoderHalf):
    """Pixels → features of twice the latent's channels, through four resolutions.

    Args:
        width: channels of the first stage.
        out_channels: of the features.

    Source: Wan2.1 wan/modules/vae.py, Encoder3d.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(width, PIXEL_CHANNELS, out_channels)
        self.downsamples: list[ResidualBlock | Downsample] = []
        for stage, (into, out) in enumerate(pairwise(encoder_widths(width))):
            self.downsamples += [ResidualBlock(into, out), ResidualBlock(out, out)]
            if stage < 3:
                self.downsamples.append(Downsample(out, halves_time=stage > 0))

    def stages(self) -> list[Sequence[Layer]]:
        """The four stages, highest resolution first; the first one begins with `conv1`."""
        layers = self.downsamples
        return [[self.conv1, *layers[0:3]], layers[3:6], layers[6:9], layers[9:11]]
