"""How much memory the text encoder takes, from the sizes of the arrays that exist together."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_video.config import TextEncoderConfig
from mlx_video.models.peak import WIDE, Peak, WeightCopies, cpu_weight_copies


def text_encoder_peak(
    config: TextEncoderConfig, lengths: Sequence[int], *, number_bytes: int, bits: int | None, on_gpu: bool
) -> Peak:
    """Peak of encoding texts one after another, beside the weights; the features of all are held.

    Args:
        config: sizes of the encoder.
        lengths: tokens of each text.
        number_bytes: of one number of a dense layer, as stored.
        bits: of quantized layers; None for dense ones.
        on_gpu: where it runs. On a CPU weights are widened, each product evaluated before the next.
    """
    copies = WeightCopies() if on_gpu else cpu_weight_copies(number_bytes, bits)
    longest = max(lengths)
    tokens, hidden = longest * config.dim, longest * config.dim_ffn
    weight = config.dim * max(config.dim_ffn, config.dim_attn)
    # Bias by position as the table gives it and in the type of scores; scores; and both added up.
    scores = (3 + 0.5 * (number_bytes != WIDE)) * config.num_heads * longest**2
    attention = scores + 8 * tokens
    # The widened weight, beside the gate, what it gates, and their product.
    product = min(copies.alone, 1) * weight + 3 * hidden + 6 * tokens
    # While a quantized weight is unpacked its product is not there yet.
    unpacking = copies.alone * weight + hidden if bits is not None else 0
    nbytes = int(WIDE * max(attention, unpacking, product))
    return Peak(nbytes, nbytes).beside(WIDE * sum(lengths) * config.dim)
