"""Blocks of LongCat-Video: each makes its own modulation; clean frames see neither noise nor text."""

from __future__ import annotations

from itertools import takewhile

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import AttentionSite, BlockContext, KeysValues, TimeFeatures
from mlx_video.models.dispatch import current_limits
from mlx_video.models.elementwise import fused
from mlx_video.models.matmul import common_dtype, compute_dtype, in_chunks, merge_heads, project, split_heads
from mlx_video.models.rope import RotaryTable, rotate
from mlx_video.models.token_layout import TokenLayout
from mlx_video.models.transformer_block import BlockLayers, modulate


def count_clean_tokens(layout: TokenLayout) -> int:
    """How many tokens at the start are free of noise: their segments state timestep 0."""
    clean = takewhile(lambda segment: segment.timestep == 0, layout.segments)
    return sum(segment.num_tokens for segment in clean)


def count_clean_here(context: BlockContext) -> int:
    """How many of the tokens at the start of those of this process are free of noise."""
    rows = context.rows
    return max(0, min(count_clean_tokens(context.layout), rows.stop) - rows.start)


@fused
def silu_gated(x: mx.array, gate: mx.array) -> mx.array:
    """silu(x) · gate, in the type of both."""
    return x * mx.sigmoid(x) * gate


class HeadAttention(nn.Module):
    """What both attentions of a block have: heads of which each is normalized by itself.

    Args:
        dim: width of the tokens.
        num_heads: that it is cut into.
        eps: of the norms.
    """

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim // num_heads, eps=eps)
        self.norm_k = nn.RMSNorm(dim // num_heads, eps=eps)

    @property
    def scale(self) -> float:
        """Of the products of queries and keys: one over the root of a head's channels."""
        return self.norm_q.weight.size**-0.5


class SelfAttention(HeadAttention):
    """Attention of noisy tokens to all, and of clean tokens to clean ones.

    Source: meituan-longcat/LongCat-Video longcat_video/modules/attention.py, Attention.
    """

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__(dim, num_heads, eps)
        self.qkv = nn.Linear(dim, 3 * dim)

    @property
    def input_dtype(self) -> mx.Dtype:
        """The type that queries, keys and values are made from."""
        return compute_dtype(self.qkv)

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """Mix the tokens.

        Args:
            x: [L, dim], any floating type.
            context: of the block; its layout tells clean tokens.

        Returns:
            [L, dim] in the weights' type.
        """
        queries, keys, values = mx.split(project(self.qkv, x), 3, axis=-1)
        queries = self._place(queries, self.norm_q, context.rotary)
        keys = self._place(keys, self.norm_k, context.rotary)
        values = split_heads(values, self.num_heads)
        keys, values = context.sharing.join_keys_values(queries, keys, values, context.layout.num_tokens)
        site = AttentionSite("self", self, context, sees_all=True)
        clean, here = count_clean_tokens(context.layout), count_clean_here(context)
        parts = []
        if here:
            seen = slice(0, clean)
            parts.append(context.attention(queries[:, :, :here], keys[:, :, seen], values[:, :, seen], site))
        if here < len(x):
            parts.append(context.attention(queries[:, :, here:], keys, values, site))
        return project(self.o, merge_heads(mx.concatenate(parts, axis=2)))

    def _place(self, x: mx.array, norm: nn.RMSNorm, rotary: RotaryTable) -> mx.array:
        """Normalized head by head and turned by position, [L, dim] → [1, N, L, D]."""
        heads = norm(x.reshape(len(x), self.num_heads, -1)).astype(x.dtype)
        return rotate(heads, rotary)[None].swapaxes(1, 2)


class CrossAttention(HeadAttention):
    """Attention of noisy tokens to the text; clean tokens get nothing of it.

    Source: meituan-longcat/LongCat-Video longcat_video/modules/attention.py, MultiHeadCrossAttention.
    """

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__(dim, num_heads, eps)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    @property
    def query_dtype(self) -> mx.Dtype:
        """The type that queries are made from."""
        return compute_dtype(self.q)

    def keys_values(self, text: mx.array) -> KeysValues:
        """Keys and values of the text; they depend on it alone.

        Args:
            text: [K, dim], zeros behind the last word: what these give is attended to like the rest.
        """
        keys, values = mx.split(project(self.kv, text), 2, axis=-1)
        return KeysValues(self._normalize(keys, self.norm_k), split_heads(values, self.num_heads))

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """Read the text.

        Args:
            x: [L, dim], any floating type.
            context: of the block; gives the prompt, and its layout tells clean tokens.

        Returns:
            [L, dim] in the weights' type, zeros for clean tokens.
        """
        clean = count_clean_here(context)
        if clean == len(x):
            return mx.zeros_like(x)
        text = context.text.text.keys_values(context.index, self.keys_values)
        queries = self._normalize(project(self.q, x[clean:]), self.norm_q)
        mixed = context.attention(queries, text.keys, text.values, AttentionSite("text", self, context))
        read = project(self.o, merge_heads(mixed))
        return mx.pad(read, [(clean, 0), (0, 0)]) if clean else read

    def _normalize(self, x: mx.array, norm: nn.RMSNorm) -> mx.array:
        """Normalized head by head, [L, dim] → [1, N, L, D]."""
        return norm(split_heads(x, self.num_heads)).astype(x.dtype)


class FeedForward(nn.Module):
    """Two linear layers side by side, of which one gates the other, and a third; none has a bias.

    Source: meituan-longcat/LongCat-Video longcat_video/modules/blocks.py, FeedForwardSwiGLU.
    """

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.ffn_dim = ffn_dim
        self.fc1 = nn.Linear(dim, ffn_dim, bias=False)
        self.gate = nn.Linear(dim, ffn_dim, bias=False)
        self.fc2 = nn.Linear(ffn_dim, dim, bias=False)

    @property
    def input_dtype(self) -> mx.Dtype:
        """The type that the hidden layers are made from."""
        return common_dtype(self.fc1, self.gate)

    def __call__(self, x: mx.array) -> mx.array:
        """[L, dim] in any floating type → [L, dim] in the weights' type."""
        dim = x.shape[-1]
        rows = current_limits().rows(elements=2 * self.ffn_dim, flops=6 * dim * self.ffn_dim)
        return in_chunks(self._rows, x, rows)

    def _rows(self, x: mx.array) -> mx.array:
        return project(self.fc2, silu_gated(project(self.fc1, x), project(self.gate, x)))


class LongCatBlock(BlockLayers):
    """One block.

    Source: meituan-longcat/LongCat-Video longcat_video/modules/longcat_video_dit.py,
    LongCatSingleStreamBlock.
    """

    def __init__(self, config: TransformerConfig) -> None:
        nn.Module.__init__(self)
        assert config.time_dim is not None
        dim, num_heads, eps = config.dim, config.num_heads, config.eps
        self.eps = eps
        self.time_projection = nn.Linear(config.time_dim, 6 * dim)
        self.self_attn = SelfAttention(dim, num_heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, num_heads, eps)
        self.ffn = FeedForward(dim, config.ffn_dim)

    def modulate_time(self, time: TimeFeatures) -> mx.array:
        """See :class:`BlockLayers`."""
        table = project(self.time_projection, time.modulation, mx.float32)
        return table.reshape(len(table), 6, -1)

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """Tokens [L, dim] that leave the block; see :meth:`BlockLayers.run_layers`."""
        return self.run_layers(x, context)


class LongCatHead(nn.Module):
    """Last norm, modulation and projection, in float32 throughout.

    Source: meituan-longcat/LongCat-Video longcat_video/modules/blocks.py, FinalLayer_FP32.
    """

    def __init__(self, config: TransformerConfig, patch_features: int) -> None:
        super().__init__()
        assert config.time_dim is not None
        self.eps = config.eps
        self.time_projection = nn.Linear(config.time_dim, 2 * config.dim)
        self.head = nn.Linear(config.dim, patch_features)

    def __call__(self, x: mx.array, time: TimeFeatures) -> mx.array:
        """Project tokens to patches of the velocity.

        Args:
            x: [L, dim], float32.
            time: of its tokens.

        Returns:
            [L, patch features], float32.
        """
        table = project(self.time_projection, time.modulation, mx.float32)
        shift_scale = table.reshape(len(table), 2, -1)
        # The network is trained towards clean minus noise, the velocity is noise minus clean.
        return -project(self.head, modulate(x, shift_scale, time.spans, self.eps), mx.float32)
