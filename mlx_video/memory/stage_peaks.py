"""Most bytes of MLX memory that exist at once in the stages that run transformers and encoders of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mlx_video.config import ImageEncoderConfig, TextEncoderConfig
from mlx_video.geometry import VideoGeometry
from mlx_video.memory.forward_tape import WIDE, ForwardSize, forward_tape
from mlx_video.memory.stream_plan import SLOTS, choose_streamed
from mlx_video.memory.tape import TASKS_AHEAD
from mlx_video.memory.weight_bytes import WeightBytes

# Latents of a step: noise, the newest and the next ones, three of the solver, two predictions, their mixture.
LATENTS_OF_A_STEP = 9


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes of one stage.

    Attributes:
        needed: if MLX schedules nothing ahead, as it does when memory is short.
        usual: with what it schedules ahead.
        held: of these, what stays for the whole stage: weights, and what is computed once.
    """

    needed: int
    usual: int
    held: int = 0

    def within(self, budget_bytes: int) -> int:
        """What the stage is expected to reach when MLX's memory limit is `budget_bytes`."""
        return max(self.needed, min(self.usual, budget_bytes))


def denoise_peak(
    size: ForwardSize,
    weights: WeightBytes,
    geometry: VideoGeometry,
    *,
    resident_blocks: int | None = None,
    num_transformers: int = 1,
    adapter_bytes: int = 0,
) -> Peak:
    """Peak of the sampling stage.

    Args:
        size: of a forward.
        weights: of one transformer; the larger of two.
        geometry: of the video.
        resident_blocks: how many stay in memory; None for all.
        num_transformers: kept at a time.
        adapter_bytes: of the adapters of one transformer.
    """
    is_streamed = bytes_read_per_step(weights, resident_blocks) > 0
    in_use = weight_bytes_in_use(weights, resident_blocks) + adapter_bytes
    if adapter_bytes and is_streamed:
        in_use += weights.largest_block  # adapters are merged into a copy of the block at its turn
    held = num_transformers * (in_use + kept_text_bytes(size))
    held += LATENTS_OF_A_STEP * math.prod(geometry.latent_shape) * WIDE
    held += size.num_tokens * size.config.head_dim * WIDE  # rotary table: a cosine and a sine for each pair
    if is_streamed:
        # The passes of a step go through a block together: those that wait hold their tokens.
        held += (size.num_passes - 1) * size.num_tokens * size.config.dim * WIDE
    needed, usual = _forward_peaks(size, is_streamed)
    return Peak(held + needed, held + usual, held)


@lru_cache(maxsize=64)
def _forward_peaks(size: ForwardSize, waits_for_blocks: bool) -> tuple[int, int]:
    """Bytes of a forward's arrays with nothing, and with the usual, scheduled ahead."""
    tape = forward_tape(size, waits_for_blocks=waits_for_blocks)
    return tape.peak(0), tape.peak(TASKS_AHEAD)


def weight_bytes_in_use(weights: WeightBytes, resident_blocks: int | None) -> int:
    """Bytes of a transformer's weights while it runs: what stays, and the slots of streamed blocks.

    Args:
        weights: of the transformer.
        resident_blocks: None for all.
    """
    streamed = bytes_read_per_step(weights, resident_blocks)
    return weights.total - streamed + (SLOTS * weights.largest_block if streamed else 0)


def bytes_read_per_step(weights: WeightBytes, resident_blocks: int | None) -> int:
    """Bytes that a step reads from the file: every block that does not stay."""
    if resident_blocks is None:
        return 0
    return sum(weights.blocks[index] for index in choose_streamed(len(weights.blocks), resident_blocks))


def kept_text_bytes(size: ForwardSize) -> int:
    """Prompts at the transformer's width, and the keys and values that every block makes of them once."""
    config = size.config
    text = size.num_passes * config.text_len
    kept_in_blocks = 2 * config.num_layers * (text + size.image_tokens) * config.dim
    features = text * (config.text_dim + config.dim) + size.image_tokens * config.dim
    return (kept_in_blocks + features) * size.compute_bytes


def text_peak(
    weights: WeightBytes, config: TextEncoderConfig, lengths: Sequence[int], *, streams: bool, on_gpu: bool
) -> Peak:
    """Peak of the text encoder.

    Args:
        weights: of its file.
        config: its sizes.
        lengths: tokens of each text.
        streams: whether its blocks are read, used and dropped; no more than one is in memory then.
        on_gpu: where it runs. On a CPU one weight at a time is widened.
    """
    is_widened = not on_gpu and (weights.number_bytes != WIDE or weights.bits is not None)
    held = weights.largest_block if streams else weights.total
    held += sum(lengths) * config.dim * WIDE
    longest = max(lengths)
    # Products are evaluated before the scores of attention are made: a widened weight never meets these.
    scores = 4 * config.num_heads * longest**2
    product = is_widened * config.dim * max(config.dim_ffn, config.dim_attn) + 3 * longest * config.dim_ffn
    needed = held + (max(scores, product) + 6 * longest * config.dim) * WIDE
    return Peak(needed, needed, held)


def image_encoder_peak(nbytes: int, config: ImageEncoderConfig, num_images: int) -> int:
    """Most bytes that the CLIP tower takes, which works in float32.

    Args:
        nbytes: of its file.
        config: its sizes.
        num_images: encoded at once.
    """
    tokens = num_images * config.num_tokens
    widened = config.width * (4 * config.width + 2 * config.mlp_width)
    scores = 2 * config.num_heads * num_images * config.num_tokens**2
    activations = tokens * (12 * config.width + 4 * config.mlp_width) + scores
    return nbytes + (widened + activations) * WIDE
