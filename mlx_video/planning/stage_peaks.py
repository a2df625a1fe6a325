"""Most bytes of MLX memory in the stages whose weights may be streamed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlx_video.config import TextEncoderConfig
from mlx_video.geometry import VideoGeometry
from mlx_video.loading.stream_plan import SLOTS, choose_streamed
from mlx_video.models.encoders.text_encoder_memory import text_encoder_peak
from mlx_video.models.peak import WIDE, Peak
from mlx_video.models.transformer_memory import ForwardSize
from mlx_video.planning.division import UNDIVIDED, Division
from mlx_video.planning.weight_bytes import WeightBytes
from mlx_video.weights.network import PLAIN, TransformerNetwork

# Latents of a step: noise, the newest and the next ones, three of the solver, two predictions, their mixture.
LATENTS_OF_A_STEP = 9


def denoise_peak(
    size: ForwardSize,
    weights: WeightBytes,
    geometry: VideoGeometry,
    *,
    resident_blocks: int | None = None,
    num_transformers: int = 1,
    adapter_bytes: int = 0,
    network: TransformerNetwork = PLAIN,
    cache_bytes: int = 0,
    num_windows: int = 1,
    division: Division = UNDIVIDED,
) -> Peak:
    """Peak of the sampling stage.

    Args:
        size: of a forward.
        weights: of one transformer, as far as this process has it; the larger of two.
        geometry: of the video.
        resident_blocks: how many stay in memory; None for all.
        num_transformers: kept at a time.
        adapter_bytes: of the adapters of one transformer.
        network: what the transformer is.
        cache_bytes: of a step cache, for each number of a transformer's residual stream.
        num_windows: of the video, which pass one after the other.
        division: over processes, of which this is one.
    """
    sharded = division.bytes_in_use(weights)
    is_streamed = sharded is not None or bytes_read_per_step(weights, resident_blocks) > 0
    in_use = transformer_bytes(weights, resident_blocks, adapter_bytes, sharded)
    size = division.share_forward(size)
    forward = network.peak(size, waits_for_blocks=is_streamed)
    held = num_transformers * in_use + (num_transformers - 1) * forward.held
    # Sums of the windows and what they become: two for each pass beside what every step has.
    latents = LATENTS_OF_A_STEP + (2 * size.num_passes if num_windows > 1 else 0)
    held += latents * math.prod(geometry.latent_shape) * WIDE
    held += num_transformers * num_windows * cache_bytes * size.num_tokens * size.config.dim
    if is_streamed:
        # The passes of a step go through a block together: those that wait hold their tokens.
        held += (size.num_waiting - 1) * size.stream
    return forward.beside(held)


def transformer_bytes(
    weights: WeightBytes, resident_blocks: int | None, adapter_bytes: int, sharded: int | None = None
) -> int:
    """Bytes of a transformer with its adapters while it runs.

    Args:
        weights, resident_blocks: as for :func:`weight_bytes_in_use`.
        adapter_bytes: of its adapters.
        sharded: of its weights where processes keep parts of the blocks; None where this one has them all.
    """
    in_use = weight_bytes_in_use(weights, resident_blocks) if sharded is None else sharded
    in_use += adapter_bytes
    if adapter_bytes and (sharded is not None or bytes_read_per_step(weights, resident_blocks)):
        in_use += weights.largest_block  # adapters are merged into a copy of the block at its turn
    return in_use


def weight_bytes_in_use(weights: WeightBytes, resident_blocks: int | None) -> int:
    """Bytes of a transformer's weights while it runs: what stays, and the slots of streamed blocks.

    Args:
        weights: of the transformer.
        resident_blocks: None for all.
    """
    streamed = bytes_read_per_step(weights, resident_blocks)
    return weights.total - streamed + (SLOTS * weights.slot_bytes if streamed else 0)


def bytes_read_per_step(weights: WeightBytes, resident_blocks: int | None) -> int:
    """Bytes that a step reads from the file: every block that does not stay."""
    if resident_blocks is None:
        return 0
    return sum(weights.blocks[index] for index in choose_streamed(len(weights.blocks), resident_blocks))


def text_peak(
    weights: WeightBytes,
    config: TextEncoderConfig,
    lengths: Sequence[int],
    *,
    on_gpu: bool,
    is_whole: bool = False,
) -> Peak:
    """Peak of the text encoder.

    Args:
        weights: of its file.
        config: its sizes.
        lengths: tokens of each text.
        on_gpu: where it runs.
        is_whole: whether all of it is in memory, or no more than one block.
    """
    network = text_encoder_peak(
        config, lengths, number_bytes=weights.number_bytes, bits=weights.bits, on_gpu=on_gpu
    )
    return network.beside(weights.total if is_whole else weights.largest_block)
