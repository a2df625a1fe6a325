"""How much memory speech-to-video takes beside what every transformer does, and wav2vec 2.0."""

from __future__ import annotations

from mlx_video.config import AudioEncoderConfig, TransformerConfig
from mlx_video.models.dispatch import current_limits
from mlx_video.models.elementwise import on_gpu
from mlx_video.models.encoders.audio_encoder import FEATURES_AT_ONCE
from mlx_video.models.peak import WIDE, Peak
from mlx_video.models.transformer_memory import ForwardSize, forward_peak


def count_read_frames(config: TransformerConfig) -> int:
    """Token frames that a forward reads besides the video's: a reference, and one and a half of motion."""
    return 3 if config.audio_dim is not None else 0


def speech_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """Peak of one forward beside the tokens that stay from step to step, and the two that joining makes."""
    streams = size.num_waiting if waits_for_blocks else 1
    return forward_peak(size, waits_for_blocks=waits_for_blocks).beside(streams * size.stream)


# Arrays as large as what the first convolution makes: taps laid out for products, and the steps of the GELU.
_CONVOLUTION_ARRAYS = 13.5


def audio_encoder_peak(config: AudioEncoderConfig, num_samples: int, *, number_bytes: int) -> Peak:
    """Peak of encoding a sound, beside the weights. The encoder works in float32.

    Args:
        config: sizes of the encoder.
        num_samples: of the sound.
        number_bytes: of one number of a weight.
    """
    count = config.count_features(num_samples)
    stretch = min(count, FEATURES_AT_ONCE)
    first = stretch * config.hop // config.conv_strides[0] * config.conv_width
    tokens, hidden = count * config.width, count * config.mlp_width
    positions = stretch * config.position_kernel * config.width + 6 * tokens
    # All weights of a block are widened before it is evaluated.
    widened = config.width * (4 * config.width + 2 * config.mlp_width) if number_bytes != WIDE else 0
    block = 3 * _count_scores(config, count) + 2 * hidden + 4 * tokens + widened
    nbytes = int(WIDE * max(_CONVOLUTION_ARRAYS * first, positions, block))
    return Peak(nbytes, nbytes)


def _count_scores(config: AudioEncoderConfig, count: int) -> int:
    """Scores of attention that exist at once; none where it is fused."""
    limits = current_limits()
    if on_gpu() and limits.fused_attention:
        return 0
    rows = limits.rows(elements=config.num_heads * count, flops=4 * count * config.width)
    return min(rows, count) * config.num_heads * count
