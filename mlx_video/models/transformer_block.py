"""One block of the transformer: self-attention, cross-attention and feed-forward under time modulation."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import AttentionSite, BlockContext, KeysValues, TimeFeatures
from mlx_video.models.dispatch import current_limits, evaluate_if_long
from mlx_video.models.elementwise import add_gated, add_residual, gelu_tanh
from mlx_video.models.kernels.layer_norm import layer_norm
from mlx_video.models.kernels.rotary_norm import rotary_norm
from mlx_video.models.matmul import common_dtype, compute_dtype, in_chunks, merge_heads, project, split_heads
from mlx_video.models.rope import RotaryTable
from mlx_video.models.token_layout import TokenSpan


def by_timestep(
    function: Callable[..., mx.array], spans: tuple[TokenSpan, ...], *arrays: mx.array
) -> mx.array:
    """Apply a function to the tokens of each span, so that no table is spread over tokens.

    Args:
        function: takes the span's row of the time features, then its part of each array.
        spans: cover all tokens in order.
        arrays: [L, ...] each.

    Returns:
        [L, ...], the parts joined again.
    """
    if len(spans) == 1:
        return function(spans[0].row, *arrays)
    parts = [function(span.row, *(array[span.start : span.stop] for array in arrays)) for span in spans]
    return mx.concatenate(parts)


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens, queries and keys normalized and turned by position.

    Source: Wan2.1 wan/modules/model.py, WanSelfAttention.
    """

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        # Over all heads together, before they are split.
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)

    @property
    def scale(self) -> float:
        """Of the products of queries and keys: one over the root of a head's channels."""
        return (self.norm_q.weight.size // self.num_heads) ** -0.5

    @property
    def input_dtype(self) -> mx.Dtype:
        """The type that queries, keys and values are made from."""
        return common_dtype(self.q, self.k, self.v)

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """Mix the tokens.

        Args:
            x: [L, dim], any floating type.
            context: of the block; gives positions and the way to attend.

        Returns:
            [L, dim] in the weights' type.
        """
        queries, keys, values = self.project_heads(x, context.rotary)
        return self.merge(context.attention(queries, keys, values, AttentionSite("self", self, context)))

    def project_heads(self, x: mx.array, rotary: RotaryTable) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, keys and values [1, N, L, D] of the tokens [L, dim]; the first two turned by position."""
        values = project(self.v, x)
        queries = self._place(project(self.q, x), self.norm_q, rotary, values.dtype)
        keys = self._place(project(self.k, x), self.norm_k, rotary, values.dtype)
        return queries, keys, split_heads(values, self.num_heads)

    def merge(self, mixed: mx.array) -> mx.array:
        """Mixed values of all heads [1, N, L, D] → [L, dim]."""
        return project(self.o, merge_heads(mixed))

    def _place(self, x: mx.array, norm: nn.RMSNorm, rotary: RotaryTable, dtype: mx.Dtype) -> mx.array:
        """Normalized and turned by position, [L, dim] → [1, N, L, D]."""
        return rotary_norm(x, norm, rotary, self.num_heads).astype(dtype)[None].swapaxes(1, 2)


class CrossAttention(SelfAttention):
    """Attention of all tokens to the text, and in some models to an image; no positions, no mask.

    Args:
        reads_image: whether there are layers for image tokens. They meet the queries of the text.

    Source: Wan2.1 wan/modules/model.py, WanT2VCrossAttention and WanI2VCrossAttention.
    """

    def __init__(self, dim: int, num_heads: int, eps: float, *, reads_image: bool = False) -> None:
        super().__init__(dim, num_heads, eps)
        if reads_image:
            self.k_img = nn.Linear(dim, dim)
            self.v_img = nn.Linear(dim, dim)
            self.norm_k_img = nn.RMSNorm(dim, eps=eps)

    @property
    def query_dtype(self) -> mx.Dtype:
        """The type that queries are made from."""
        return compute_dtype(self.q)

    def keys_values(self, text: mx.array) -> KeysValues:
        """Keys and values of the text; they depend on it alone.

        Args:
            text: [K, dim].
        """
        return self._split(self.norm_k(project(self.k, text)), project(self.v, text))

    def image_keys_values(self, image: mx.array) -> KeysValues:
        """Keys and values of the image tokens; only where the attention reads an image.

        Args:
            image: [K, dim].
        """
        return self._split(self.norm_k_img(project(self.k_img, image)), project(self.v_img, image))

    def _split(self, keys: mx.array, values: mx.array) -> KeysValues:
        keys = keys.astype(values.dtype)
        return KeysValues(split_heads(keys, self.num_heads), split_heads(values, self.num_heads))

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """Read the text, and the image tokens that may come with it.

        Args:
            x: [L, dim], any floating type.
            context: of the block; gives the prompt and the way to attend.

        Returns:
            [L, dim] in the weights' type.
        """
        prompt, index = context.text, context.index
        text = prompt.text.keys_values(index, self.keys_values)
        queries = split_heads(self.norm_q(project(self.q, x)).astype(text.values.dtype), self.num_heads)
        mixed = context.attention(queries, text.keys, text.values, AttentionSite("text", self, context))
        if prompt.image is not None:
            image = prompt.image.keys_values(index, self.image_keys_values)
            site = AttentionSite("image", self, context)
            mixed = mixed + context.attention(queries, image.keys, image.values, site)
        return self.merge(mixed)


class FeedForward(nn.Module):
    """Two linear layers with a tanh-GELU between them.

    Source: Wan2.1 wan/modules/model.py, WanAttentionBlock.ffn.
    """

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)

    @property
    def input_dtype(self) -> mx.Dtype:
        """The type that the hidden layer is made from."""
        return common_dtype(self.fc1)

    def __call__(self, x: mx.array) -> mx.array:
        """[L, dim] in any floating type → [L, dim] in the weights' type."""
        dim, hidden_dim = x.shape[-1], self.fc1.bias.size
        rows = current_limits().rows(elements=hidden_dim, flops=4 * dim * hidden_dim)
        return in_chunks(self._rows, x, rows)

    def _rows(self, x: mx.array) -> mx.array:
        return project(self.fc2, gelu_tanh(project(self.fc1, x)))


class BlockLayers(nn.Module):
    """Self-attention, cross-attention, feed-forward; each adds to the residual stream.

    Rows of `modulation` plus time features: shift, scale and gate of self-attention, then the same of the
    feed-forward. Cross-attention has none.

    Source: Wan2.1 wan/modules/model.py, WanAttentionBlock.
    """

    # Another architecture puts its own in their places.
    self_attn: nn.Module
    cross_attn: nn.Module
    ffn: nn.Module

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = mx.zeros((1, 6, config.dim))
        self.self_attn = SelfAttention(config.dim, config.num_heads, config.eps)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(
            config.dim, config.num_heads, config.eps, reads_image=config.image_dim is not None
        )
        self.ffn = FeedForward(config.dim, config.ffn_dim)

    def run_layers(self, x: mx.array, context: BlockContext) -> mx.array:
        """Run the block.

        Args:
            x: residual stream [L, dim]. float32: it drifts in half precision over 40 blocks.
            context: of this block.

        Returns:
            [L, dim], float32.
        """
        table = self.modulate_time(context.time)
        mixed = self.self_attn(self.enter(x, table, context.time), context)
        return self.leave(x, mixed, table, context)

    def modulate_time(self, time: TimeFeatures) -> mx.array:
        """Shifts, scales and gates of the block at the timesteps in use, [U, 6, dim], float32."""
        return self.modulation.astype(mx.float32) + time.modulation

    def enter(self, x: mx.array, table: mx.array, time: TimeFeatures) -> mx.array:
        """What self-attention reads of the residual stream, [L, dim]."""
        return modulate(x, table[:, :2], time.spans, self.eps, self.self_attn.input_dtype)

    def leave(self, x: mx.array, mixed: mx.array, table: mx.array, context: BlockContext) -> mx.array:
        """Residual stream [L, dim] behind self-attention, which gave `mixed`, and all that follows it."""
        time = context.time
        x = self._add(x, mixed, table[:, 2], time)
        x = add_residual(x, self.cross_attn(self._normalize(x), context))
        x = self._add(x, self._feed(x, table[:, 3:5], time), table[:, 5], time)
        return evaluate_if_long(x)

    def _normalize(self, x: mx.array) -> mx.array:
        """What cross-attention reads."""
        norm = self.norm3
        return layer_norm(x, norm.weight, norm.bias, self.eps, self.cross_attn.query_dtype)

    def _feed(self, x: mx.array, shift_scale: mx.array, time: TimeFeatures) -> mx.array:
        return self.ffn(modulate(x, shift_scale, time.spans, self.eps, self.ffn.input_dtype))

    def _add(self, x: mx.array, y: mx.array, gates: mx.array, time: TimeFeatures) -> mx.array:
        return by_timestep(lambda row, *arrays: add_gated(*arrays, gates[row]), time.spans, x, y)


class TransformerBlock(BlockLayers):
    """One block of the main stream."""

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """Tokens [L, dim] that leave the block; see :meth:`BlockLayers.run_layers`."""
        return self.run_layers(x, context)


def modulate(
    x: mx.array,
    shift_scale: mx.array,
    spans: tuple[TokenSpan, ...],
    eps: float,
    dtype: mx.Dtype = mx.float32,
) -> mx.array:
    """Layer norm, then scale and shift by timestep.

    Args:
        x: [L, D], float32.
        shift_scale: [U, 2, D], float32; the result is norm(x)·(1 + scale) + shift.
        spans: which tokens use which of the U rows.
        eps: added to the variance.
        dtype: that the result is rounded to, once for all layers that read it.

    Returns:
        [L, D] in that type.
    """

    def rows(row: int, part: mx.array) -> mx.array:
        return layer_norm(part, 1 + shift_scale[row, 1], shift_scale[row, 0], eps, dtype)

    return by_timestep(rows, spans, x)
