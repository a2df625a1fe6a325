"""How much memory previews take while a transformer is at work, and the tiny decoder at the end."""

from __future__ import annotations

import math
from typing import Literal

from mlx_video.config import TinyVAEConfig
from mlx_video.models.peak import WIDE, Peak
from mlx_video.models.vae.tiny import COLOURS, PREVIEW
from mlx_video.planning.tiny_memory import tiny_peak_bytes
from mlx_video.planning.vae_layers import Frame
from mlx_video.planning.weight_bytes import WeightBytes

PreviewMaker = Literal["none", "colours", "tiny"]
"""What makes previews: the colours of the latents, or the tiny decoder."""
TinyDecoderSize = tuple[WeightBytes, TinyVAEConfig]

# Latents before the step, clean ones, those of the result and transposed ones; and types of the frames.
_LATENTS, _FRAMES = 4, 6


def preview_peak(
    maker: PreviewMaker, latent_shape: tuple[int, ...], frame: Frame, tiny: TinyDecoderSize | None
) -> Peak:
    """The work of a preview between two forwards, and what stays for it all the time.

    Args:
        maker: of the frames.
        latent_shape: [C, T, H, W] of what is sampled.
        frame: rows and columns of its cells.
        tiny: the decoder, where it is the maker.
    """
    if maker == "none":
        return Peak(0, 0)
    pixels = WIDE * COLOURS * math.prod(latent_shape[1:])
    nbytes, weights = WIDE * _LATENTS * math.prod(latent_shape), 0
    if tiny is not None and maker == "tiny":
        pixels *= (tiny[1].patch_size * 2 ** sum(PREVIEW.space)) ** 2
        nbytes += tiny_peak_bytes(tiny[1], frame, PREVIEW)
        weights = loaded_bytes(tiny)
    nbytes += _FRAMES * pixels
    return Peak(nbytes, nbytes).beside(weights)


def tiny_decode_bytes(tiny: TinyDecoderSize, frame: Frame) -> int:
    """The most that decoding a video takes, with the decoder's weights."""
    return loaded_bytes(tiny) + tiny_peak_bytes(tiny[1], frame)


def loaded_bytes(tiny: TinyDecoderSize) -> int:
    """Of the weights, which are float32 in memory whatever their file holds."""
    return tiny[0].total * WIDE // tiny[0].number_bytes
