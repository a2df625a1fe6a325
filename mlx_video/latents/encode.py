"""Frames → latents, in memory that does not depend on the clip's length."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx

from mlx_video.config import VAEConfig
from mlx_video.geometry import latent_frames, pixel_frames
from mlx_video.models.vae_stream import StreamState, VideoVAE


def encode_video(vae: VideoVAE, frames: mx.array | Iterable[mx.array]) -> mx.array:
    """Encode a clip into the latents that the transformer works on.

    Args:
        vae: with its encoder.
        frames: [F, H, W, 3] in [-1, 1], or pieces [f, H, W, 3] of it in order, of any lengths. F must be
            4n + 1, H and W multiples of the VAE's stride (4, h, w).

    Returns:
        [C, T, H/h, W/w], float32: the normalised means. T is 1 + (F - 1) / 4.

    Raises:
        ValueError: F is not 4n + 1, or the height or width is no multiple of the stride.

    Source: Wan2.1 wan/modules/vae.py, WanVAE.encode; Wan2.2 wan/modules/vae2_2.py, Wan2_2_VAE.encode.
    """
    if isinstance(frames, mx.array):
        _check_count(len(frames), vae.config.stride[0])  # before the work rather than after
        frames = [frames]
    state, means, num_frames = StreamState(), [], 0
    for piece in frames:
        _check_piece(piece, vae.config)
        num_frames += piece.shape[0]
        for mean in vae.encode(piece[None], state):
            mx.eval(mean)
            means.append(mean[0])
    _check_count(num_frames, vae.config.stride[0])
    return normalise(mx.concatenate(means), vae.config).transpose(3, 0, 1, 2)


def normalise(latents: mx.array, config: VAEConfig) -> mx.array:
    """Scale latents to zero mean and unit variance.

    Args:
        latents: [..., C], as the VAE's encoder gives them.
        config: holds mean and standard deviation per channel.

    Returns:
        [..., C], float32.
    """
    return (latents.astype(mx.float32) - mx.array(config.latent_mean)) / mx.array(config.latent_std)


def _check_piece(piece: mx.array, config: VAEConfig) -> None:
    _, step_h, step_w = config.stride
    if piece.ndim != 4 or piece.shape[-1] != 3:
        raise ValueError(f"frames are {list(piece.shape)}, expected [F, H, W, 3].")
    height, width = piece.shape[1:3]
    if height % step_h or width % step_w:
        raise ValueError(f"frames are {width}x{height}, both sides must be multiples of {step_w}x{step_h}.")


def _check_count(num_frames: int, step: int) -> None:
    below = pixel_frames(latent_frames(num_frames, step), step) if num_frames else 1
    if num_frames != below:
        nearest = f"{below} or {below + step}" if num_frames else str(below)
        raise ValueError(
            f"{num_frames} frames: must be {step}n+1, because the VAE packs {step} frames into one. "
            f"Nearest: {nearest}."
        )
