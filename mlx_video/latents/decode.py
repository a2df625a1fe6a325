"""Latents → frames, a few at a time and in memory that does not depend on the clip's length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from mlx_video.config import VAEConfig
from mlx_video.models.vae_stream import FRAME_BY_FRAME, StreamState, VideoVAE


def decode_frames(
    vae: VideoVAE,
    latents: mx.array,
    *,
    latents_per_push: int = 1,
    parts: Sequence[int] = FRAME_BY_FRAME,
) -> Iterator[mx.array]:
    """Decode a clip and hand out its frames as they are ready.

    Args:
        vae: with its decoder.
        latents: [C, T, H, W] in latent cells, normalised, as the transformer makes them.
        latents_per_push: latent frames that enter the network at once.
        parts: frames that each resolution takes at a time, lowest resolution first. Like `latents_per_push`,
            it changes speed and memory, not the frames.

    Returns:
        Pieces [f, h·H, w·W, 3] for a VAE of stride (4, h, w), in [-1, 1], float32, evaluated; 4T - 3 frames
        in all. With one latent frame per push, the first piece has 1 frame and the others 4.

    Raises:
        ValueError: the latents have another rank or number of channels, or `latents_per_push` is less than 1.

    Source: Wan2.1 wan/modules/vae.py, WanVAE.decode; Wan2.2 wan/modules/vae2_2.py, Wan2_2_VAE.decode.
    """
    if latents.ndim != 4 or latents.shape[0] != vae.config.z_dim:
        raise ValueError(f"latents are {list(latents.shape)}, expected [{vae.config.z_dim}, T, H, W].")
    if latents_per_push < 1:
        raise ValueError(f"latents_per_push is {latents_per_push}, must be at least 1.")
    return _pieces(vae, latents, latents_per_push, parts)


def _pieces(vae: VideoVAE, latents: mx.array, size: int, parts: Sequence[int]) -> Iterator[mx.array]:
    channels_last = latents.transpose(1, 2, 3, 0)[None]
    state = StreamState()
    for start in range(0, latents.shape[1], size):
        push = denormalise(channels_last[:, start : start + size], vae.config)
        frames = mx.concatenate(list(vae.decode(push, state, parts)), axis=1)[0]
        frames = mx.clip(frames.astype(mx.float32), -1, 1)
        mx.eval(frames)
        yield frames


def denormalise(latents: mx.array, config: VAEConfig) -> mx.array:
    """Undo the scaling that makes latents of zero mean and unit variance.

    Args:
        latents: [..., C], normalised.
        config: holds mean and standard deviation per channel.

    Returns:
        [..., C] as the VAE's own encoder gives them, float32.
    """
    return latents.astype(mx.float32) * mx.array(config.latent_std) + mx.array(config.latent_mean)


def to_uint8(frames: mx.array) -> np.ndarray:
    """Map [-1, 1] to 0…255.

    Args:
        frames: any shape, float32, in [-1, 1].

    Returns:
        Same shape, uint8. Cut off, not rounded, as the official writer does.

    Source: Wan2.1 wan/utils/utils.py, cache_video.
    """
    return np.array(((frames + 1) / 2 * 255).astype(mx.uint8))


def to_uint8_rounded(frames: mx.array) -> np.ndarray:
    """Map [-1, 1] to 0…255 for a single picture.

    Args:
        frames: any shape, float32, in [-1, 1].

    Returns:
        Same shape, uint8. Rounded, as the official writer does with pictures, unlike videos.

    Source: Wan2.1 wan/utils/utils.py, cache_image.
    """
    return np.array(mx.clip((frames + 1) / 2 * 255 + 0.5, 0, 255).astype(mx.uint8))
