"""What the encoders and the decoders of both Wan VAEs have in common.

Attention looks at all positions of a frame, and only the layers at the latents' resolution have any. All
other layers see a few pixels around: they form the stages, which may work on a part of a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.vae.layers import CausalConv3d, apply_head, head_layers, middle_layers
from mlx_video.models.vae.stream import FRAME_BY_FRAME, Layer, StreamState, run_layers, run_stages

LAST_STAGE = 3  # of four; the one without resampling


def encoder_widths(width: int) -> tuple[int, int, int, int, int]:
    """Channels before and after each of an encoder's four stages."""
    return width, width, 2 * width, 4 * width, 4 * width


def decoder_widths(width: int) -> tuple[int, int, int, int, int]:
    """Channels before the first of a decoder's stages and of the blocks in each."""
    return 4 * width, 4 * width, 4 * width, 2 * width, width


class DecoderHalf(nn.Module):
    """Latent features → pixels. The generations differ in :meth:`stages`.

    Args:
        width: channels of the last stage.
        z_dim: channels of a latent.
        out_channels: of a pixel.

    Source: Wan2.1 wan/modules/vae.py, Decoder3d.
    """

    def __init__(self, width: int, z_dim: int, out_channels: int) -> None:
        super().__init__()
        deepest = decoder_widths(width)[0]
        self.conv1 = CausalConv3d(z_dim, deepest)
        self.middle = middle_layers(deepest)
        self.head = head_layers(width, out_channels)

    def whole(self, x: mx.array, state: StreamState) -> mx.array:
        """Run the layers that must see whole frames: [B, T, H, W, z_dim] → [B, T, H, W, 4·width]."""
        y = run_layers([self.conv1, *self.middle], x, state)
        assert y is not None  # nothing here waits for frames
        return y

    def stages(self) -> list[Sequence[Layer]]:
        """The four stages, lowest resolution first; the last one ends with the head."""
        raise NotImplementedError

    def __call__(
        self, x: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Decode the stream's next latents.

        Args:
            x: [B, T, H, W, z_dim].
            state: of this stream.
            parts: frames that each stage takes at a time, lowest resolution first.

        Yields:
            [B, f, 8H, 8W, out_channels] in order of time: 4T frames in all, 3 less in the stream's first
            call.
        """
        yield from run_stages(self.stages(), self.whole(x, state), parts, state)


class EncoderHalf(nn.Module):
    """Pixels → features of twice the latent's channels. The generations differ in :meth:`stages`.

    Args:
        width: channels of the first stage.
        in_channels: of a pixel.
        out_channels: of the features.

    Source: Wan2.1 wan/modules/vae.py, Encoder3d.
    """

    def __init__(self, width: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        deepest = encoder_widths(width)[-1]
        self.conv1 = CausalConv3d(in_channels, width)
        self.middle = middle_layers(deepest)
        self.head = head_layers(deepest, out_channels)

    def stages(self) -> list[Sequence[Layer]]:
        """The four stages, highest resolution first; the first one begins with `conv1`."""
        raise NotImplementedError

    def whole(self, x: mx.array, state: StreamState) -> mx.array:
        """Run the layers that must see whole frames: [B, T, H, W, 4·width] → [B, T, H, W, out_channels]."""
        y = run_layers([*self.middle, partial(apply_head, self.head)], x, state)
        assert y is not None  # nothing here waits for frames
        return y

    def __call__(
        self, x: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Encode the stream's next frames.

        Args:
            x: [B, F, H, W, in_channels], any number of frames, H and W multiples of 8.
            state: of this stream.
            parts: frames that each stage takes at a time, highest resolution first.

        Yields:
            [B, t, H/8, W/8, out_channels] in order of time: one latent frame for the stream's first frame,
            and one for every four frames that follow.
        """
        for features in run_stages(self.stages(), x, parts, state):
            yield self.whole(features, state)
