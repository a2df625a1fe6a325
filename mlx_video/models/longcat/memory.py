"""How much memory a forward of LongCat-Video takes."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.models.peak import Peak
from mlx_video.models.transformer_memory import (
    ForwardSize,
    Moment,
    attention_moment,
    peak_of_moments,
    text_keys,
    with_weight,
    written_out,
)

# Both layers of the feed-forward are multiplied at a time. Where weights are quantized, part of the second
# one is not unpacked before the first is let go.
LAYERS_AT_ONCE = {None: 2, 4: 1.75, 8: 1.5}


def longcat_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """Peak of one forward; arguments as for :func:`mlx_video.models.transformer_memory.forward_peak`.

    Kept keys and values are held, and joined with those of the other tokens. Blocks that see few others need
    tokens in the order of blocks, and keys and values once more as they are gathered.
    """
    kept = size.remembered_tokens
    noisy = replace(size, num_tokens=size.num_tokens - kept, remembered_tokens=0)
    moments = (
        _rotation(noisy),
        _attention_to_blocks(noisy) if size.sees_blocks else _attention(noisy, size),
        attention_moment(noisy, text_keys(size)),
        _feed_forward(noisy),
    )
    keys_values = 2 * size.config.num_layers * kept * size.config.dim * size.compute_bytes
    return peak_of_moments(noisy, moments, waits_for_blocks=waits_for_blocks).beside(keys_values)


def _attention(noisy: ForwardSize, size: ForwardSize) -> Moment:
    """Noisy tokens against all."""
    return attention_moment(noisy, size.all_tokens, gathers=size.num_keys is not None)


def _rotation(size: ForwardSize) -> Moment:
    """Tokens and their norm; queries, keys and values in one; halves of the keys, and these joined."""
    nbytes = size.stream + 6 * size.activation
    if not size.on_gpu:
        nbytes += 2 * size.stream
    return with_weight(size, 3 * size.config.dim, nbytes)


def _attention_to_blocks(size: ForwardSize) -> Moment:
    """Tokens and their norm; queries, keys and values in both orders; what is gathered, and what is mixed."""
    return with_weight(size, size.config.dim, size.stream + 10 * size.activation)


def _feed_forward(size: ForwardSize) -> Moment:
    dim, hidden_dim = size.config.dim, size.config.ffn_dim
    rows = size.limits.rows(elements=2 * hidden_dim, flops=6 * dim * hidden_dim)
    # Tokens and what is added to them; both layers, and what one makes of the other.
    hidden = size.rows_at_once(rows) * hidden_dim * size.compute_bytes
    arrays = size.stream + size.activation + 3 * hidden
    named = size.activation if rows < size.num_tokens else 0
    text_rows, scores = written_out(size, text_keys(size))
    later = 2 * scores if text_rows >= size.num_tokens else 0
    width = int(hidden_dim * LAYERS_AT_ONCE[size.bits])
    return with_weight(size, width, arrays, named=named, later=later)
