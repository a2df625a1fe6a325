"""What sampling starts from: noise alone, or a video with noise over it."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.sampling.noise import NoiseSource

Shape = tuple[int, int, int, int]


def draw_start_noise(noise: NoiseSource, shape: Shape, leading_frames: int = 0) -> mx.array:
    """Draw the noise of a video, and of frames that stand before it.

    The video's is drawn first, so that leading frames do not change it.

    Args:
        noise: at its first draw.
        shape: [C, T, H, W] of the video.
        leading_frames: of references, which are made anew and then dropped.

    Returns:
        [C, leading_frames + T, H, W].
    """
    video = noise.draw(shape)
    if not leading_frames:
        return video
    channels, _, *sides = shape
    return mx.concatenate([noise.draw((channels, leading_frames, *sides)), video], axis=1)


def add_start_noise(latents: mx.array, noise: mx.array, sigma: float) -> mx.array:
    """Latents at the noise level of the first step.

    Args:
        latents: of the video to begin with, [C, T, H, W].
        noise: [C, T, H, W].
        sigma: 0 to 1.

    Returns:
        [C, T, H, W], float32.

    Raises:
        ValueError: shapes differ.
    """
    if latents.shape != noise.shape:
        raise ValueError(f"latents {latents.shape} under noise {noise.shape}")
    return (1 - sigma) * latents.astype(mx.float32) + sigma * noise
