"""How much memory the image encoder takes, from the sizes of the arrays that exist together."""

from __future__ import annotations

from mlx_video.config import ImageEncoderConfig
from mlx_video.models.peak import WIDE, Peak


def image_encoder_peak(config: ImageEncoderConfig, num_images: int, *, number_bytes: int) -> Peak:
    """Peak of encoding images together, beside the weights. The tower works in float32.

    Args:
        config: sizes of the tower.
        num_images: encoded at once.
        number_bytes: of one number of a weight.
    """
    tokens = num_images * config.num_tokens
    # All weights of a block are widened before it is evaluated.
    widened = config.width * (4 * config.width + 2 * config.mlp_width) if number_bytes != WIDE else 0
    scores = 2 * config.num_heads * num_images * config.num_tokens**2
    activations = tokens * (12 * config.width + 4 * config.mlp_width) + scores
    nbytes = WIDE * (widened + activations)
    return Peak(nbytes, nbytes)
