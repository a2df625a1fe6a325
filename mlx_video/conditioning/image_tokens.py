"""Images, as the image encoder sees them, to the image tokens that the transformer reads."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_video.config import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from mlx_video.media.resize import resize_bicubic
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder


def clip_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Squash an image to a square and normalize its colours.

    The aspect ratio is not kept and nothing is cropped; what the interpolation overshoots is not clamped.

    Args:
        image: [H, W, 3], float32 in [-1, 1], in its own resolution.
        size: pixels of the square's side.

    Returns:
        [size, size, 3], float32.

    Source: Wan2.1 wan/modules/clip.py, CLIPModel.visual.
    """
    unit = resize_bicubic(image, size, size) * np.float32(0.5) + np.float32(0.5)
    mean, std = np.array(CLIP_PIXEL_MEAN, np.float32), np.array(CLIP_PIXEL_STD, np.float32)
    return (unit - mean) / std


def encode_images(encoder: CLIPImageEncoder, images: Sequence[np.ndarray]) -> mx.array:
    """Encode the images of one run, such as the first and the last frame.

    Args:
        encoder: the CLIP visual tower.
        images: [H, W, 3] each, float32 in [-1, 1]: as they were opened, not resized to the video. Sizes may
            differ.

    Returns:
        [n·L, width], float32, evaluated: the tokens of the first image, then those of the next.

    Source: Wan2.1 wan/first_last_frame2video.py, WanFLF2V.generate; wan/modules/model.py, MLPProj.
    """
    pixels = np.stack([clip_pixels(image, encoder.config.image_size) for image in images])
    tokens = encoder(mx.array(pixels))
    tokens = tokens.reshape(-1, encoder.config.width)
    mx.eval(tokens)
    return tokens
