"""Either Wan video autoencoder: latents to frames and back, in one go or in the steps that tiles need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import WAN22_VAE, VAEConfig
from mlx_video.models.vae import wan21 as vae_wan21
from mlx_video.models.vae import wan22 as vae_wan22
from mlx_video.models.vae.halves import DecoderHalf
from mlx_video.models.vae.layers import PointwiseConv
from mlx_video.models.vae.stream import FRAME_BY_FRAME, Crop, StreamState, crop_stages, run_stages
from mlx_video.models.vae.wan21 import shuffle_pixels
from mlx_video.models.vae.wan22 import pack_pixels, unpack_pixels

# Pixels of a packed frame that one latent cell covers, in rows and in columns.
NETWORK_STRIDE = 8


class WanVAE(nn.Module):
    """Encoder and decoder halves; parameters carry the official checkpoint's names.

    Shapes below are for a VAE of stride (4, h, w). Wan2.2's networks work on packed frames, whose pixels are
    squares of 2×2; with Wan2.1 a packed frame is the frame itself. A decoder may make its frames larger than
    the video by a factor s (`output_scale`), else s is 1.

    Args:
        config: widths, and the latent channels that tell the generation; a half whose width is None is left
            out.

    Source: Wan2.1 wan/modules/vae.py, WanVAE_; Wan2.2 wan/modules/vae2_2.py, WanVAE_.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        network = vae_wan22 if config.z_dim == WAN22_VAE.z_dim else vae_wan21
        if config.encoder_dim is not None:
            self.encoder = network.Encoder(config.encoder_dim, 2 * config.z_dim)
            self.conv1 = PointwiseConv(2 * config.z_dim, 2 * config.z_dim)
        if config.decoder_dim is not None:
            self.conv2 = PointwiseConv(config.z_dim, config.z_dim)
            self.decoder = _build_decoder(config, config.decoder_dim)

    @property
    def packing(self) -> int:
        """Pixels of a frame, in rows and in columns, that one pixel of a packed frame holds."""
        return self.config.stride[1] // NETWORK_STRIDE

    def decode(
        self, latents: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Decode the stream's next latents.

        Args:
            latents: [B, T, H, W, C], as the encoder gives them (not normalised).
            state: of this stream; a fresh one for every clip.
            parts: frames that each resolution takes at a time, lowest resolution first.

        Yields:
            Pixels [B, f, s·h·H, s·w·W, 3], not clamped: 4T frames in all, 3 less in the stream's first call.

        Raises:
            ValueError: the decoder is absent, or the latents do not continue this stream.
        """
        yield from self.decode_features(self.decode_whole(latents, state), state, parts)

    def decode_whole(self, latents: mx.array, state: StreamState) -> mx.array:
        """Decode as far as the layers go that must see whole frames.

        Args:
            latents: as for :meth:`decode`.
            state: of this stream.

        Returns:
            Features [B, T, H, W, D].

        Raises:
            ValueError: as for :meth:`decode`.
        """
        self._require("decoder")
        state.admit(latents)
        return self.decoder.whole(self.conv2(latents), state)

    def decode_features(
        self,
        features: mx.array,
        state: StreamState,
        parts: Sequence[int] = FRAME_BY_FRAME,
        crops: Sequence[Crop] = (),
    ) -> Iterator[mx.array]:
        """Finish decoding, of whole frames or a part of each.

        Args:
            features: what :meth:`decode_whole` gave, or some rows and columns of it, the same ones for the
                whole clip.
            state: of this stream, and of this part of the frames.
            parts: as for :meth:`decode`.
            crops: for each stage what to keep of the frames it gives; empty to keep all.

        Yields:
            Pixels as for :meth:`decode`, of the part that the last crop left.
        """
        stages = crop_stages(self.decoder.stages(), crops)
        for packed in run_stages(stages, features, parts, state):
            yield shuffle_pixels(unpack_pixels(packed, self.packing), self.config.output_scale)

    def encode(
        self, frames: mx.array, state: StreamState, parts: Sequence[int] = FRAME_BY_FRAME
    ) -> Iterator[mx.array]:
        """Encode the stream's next frames.

        Args:
            frames: [B, F, H, W, 3] in [-1, 1], H and W multiples of the stride.
            state: of this stream; a fresh one for every clip.
            parts: frames that each resolution takes at a time, highest resolution first.

        Yields:
            Means [B, t, H/h, W/w, C] of the latents, not normalised; one for the stream's first frame, one
            for every four that follow.

        Raises:
            ValueError: the encoder is absent, or the frames do not continue this stream.
        """
        for features in self.encode_features(frames, state, parts):
            yield self.encode_whole(features, state)

    def encode_features(
        self,
        frames: mx.array,
        state: StreamState,
        parts: Sequence[int] = FRAME_BY_FRAME,
        crops: Sequence[Crop] = (),
    ) -> Iterator[mx.array]:
        """Encode up to the layers that must see whole frames.

        Args:
            frames: as for :meth:`encode`, or some rows and columns of them, the same ones for the whole clip.
            state: of this stream, and of this part of the frames.
            parts: as for :meth:`encode`.
            crops: for each stage what to keep of the frames it gives; empty to keep all.

        Yields:
            Features [B, t, H', W', D] of the part that the last crop left.

        Raises:
            ValueError: as for :meth:`encode`.
        """
        self._require("encoder")
        state.admit(frames)
        stages = crop_stages(self.encoder.stages(), crops)
        yield from run_stages(stages, pack_pixels(frames, self.packing), parts, state)

    def encode_whole(self, features: mx.array, state: StreamState) -> mx.array:
        """Finish encoding: features [B, t, H/h, W/w, D] of whole frames → means [B, t, H/h, W/w, C]."""
        # The other half of the channels is the variance, which is never drawn from.
        return self.conv1(self.encoder.whole(features, state))[..., : self.config.z_dim]

    def _require(self, half: str) -> None:
        if half not in self:
            raise ValueError(f"this VAE was built without its {half}: {half}_dim is None in its VAEConfig.")


def _build_decoder(config: VAEConfig, width: int) -> DecoderHalf:
    if config.z_dim == WAN22_VAE.z_dim:
        return vae_wan22.Decoder(width, config.z_dim)
    channels = vae_wan21.PIXEL_CHANNELS * config.output_scale**2
    return vae_wan21.Decoder(width, config.z_dim, channels)
