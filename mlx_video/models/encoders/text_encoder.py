"""The UMT5 text encoder: token ids to text features."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import TextEncoderConfig
from mlx_video.models.elementwise import gelu_tanh, on_gpu
from mlx_video.models.matmul import attend_biased, merge_heads, project, split_heads

EPS = 1e-6
MAX_DISTANCE = 128


def relative_buckets(length: int, num_buckets: int) -> np.ndarray:
    """Bucket of every pair of positions: near distances have their own, far ones share.

    Args:
        length: tokens.
        num_buckets: half for keys at or before the query, half for those after it.

    Returns:
        [length, length] (query, key), int32.

    Source: Wan2.1 wan/modules/t5.py, T5RelativeEmbedding; arXiv 1910.10683.
    """
    offsets = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, distance = num_buckets // 2, np.abs(offsets)
    exact = half // 2
    growth = np.log(np.maximum(distance, 1) / exact) / np.log(MAX_DISTANCE / exact) * (half - exact)
    far = np.minimum(exact + np.trunc(growth), half - 1)
    return (np.where(distance < exact, distance, far) + half * (offsets > 0)).astype(np.int32)


class TextAttention(nn.Module):
    """Attention whose scores are not scaled; a table of relative positions is added to them.

    Source: Wan2.1 wan/modules/t5.py, T5Attention.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.k = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.v = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.o = nn.Linear(config.dim_attn, config.dim, bias=False)

    def __call__(self, x: mx.array, position_bias: mx.array) -> mx.array:
        """Mix the tokens.

        Args:
            x: [n, dim].
            position_bias: [N, n, n] (head, query, key), the type of `x`.

        Returns:
            [n, dim].
        """
        q, k, v = (split_heads(_multiply(layer, x), self.num_heads) for layer in (self.q, self.k, self.v))
        return _multiply(self.o, merge_heads(attend_biased(q, k, v, position_bias)))


class GatedFeedForward(nn.Module):
    """Feed-forward in which one product, through a tanh-GELU, gates the other.

    Source: Wan2.1 wan/modules/t5.py, T5FeedForward.
    """

    def __init__(self, dim: int, dim_ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, dim_ffn, bias=False)
        self.fc1 = nn.Linear(dim, dim_ffn, bias=False)
        self.fc2 = nn.Linear(dim_ffn, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, dim] → [n, dim]."""
        gate = gelu_tanh(_multiply(self.gate_proj, x))
        return _multiply(self.fc2, _multiply(self.fc1, x) * gate)


def _multiply(layer: nn.Module, x: mx.array) -> mx.array:
    """A product in the type of `x`."""
    product = project(layer, x, x.dtype)
    if layer.weight.dtype != x.dtype:
        # Now, so that no more than one widened weight exists at a time: 168 MB in the largest layer.
        mx.eval(product)
    return product


class RelativePositions(nn.Module):
    """Bias of each head for each bucket of distance.

    Source: Wan2.1 wan/modules/t5.py, T5RelativeEmbedding.
    """

    def __init__(self, num_buckets: int, num_heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def __call__(self, buckets: mx.array) -> mx.array:
        """[n, n] from :func:`relative_buckets` → [N, n, n] in the table's type."""
        # Called, not read: forks quantize this table too.
        table = self.embedding(mx.arange(self.embedding.weight.shape[0]))
        return mx.take(table.T, buckets, axis=1)


class TextEncoderBlock(nn.Module):
    """Self-attention and feed-forward, each behind an RMS norm and added to what came in.

    Source: Wan2.1 wan/modules/t5.py, T5SelfAttention.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.dim, eps=EPS)
        self.attn = TextAttention(config)
        self.norm2 = nn.RMSNorm(config.dim, eps=EPS)
        self.ffn = GatedFeedForward(config.dim, config.dim_ffn)
        self.pos_embedding = RelativePositions(config.num_buckets, config.num_heads)

    def __call__(self, x: mx.array, buckets: mx.array) -> mx.array:
        """Run the block.

        Args:
            x: [n, dim].
            buckets: [n, n] from :func:`relative_buckets`.

        Returns:
            [n, dim] in the type of `x`.
        """
        return self.add_feed_forward(self.add_attention(x, buckets))

    def add_attention(self, x: mx.array, buckets: mx.array) -> mx.array:
        """The first half, for a caller that reads halves: it takes `norm1`, `attn` and `pos_embedding`."""
        bias = self.pos_embedding(buckets).astype(x.dtype)
        return x + self.attn(self.norm1(x), bias)

    def add_feed_forward(self, x: mx.array) -> mx.array:
        """The second half; it takes `norm2` and `ffn`."""
        return x + self.ffn(self.norm2(x))


class UMT5Encoder(nn.Module):
    """Encodes the real tokens of one text; padding, which no real token sees, is never computed.

    Embedding, each block and the last norm can be called one by one, as a caller that reads the weights
    block by block needs. Parameters carry the names of a converted folder's tensors.

    Source: Wan2.1 wan/modules/t5.py, T5Encoder.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = [TextEncoderBlock(config) for _ in range(config.num_layers)]
        self.norm = nn.RMSNorm(config.dim, eps=EPS)

    def embed(self, ids: mx.array) -> mx.array:
        """Token ids [n] → [n, dim], in the type that the blocks compute in.

        On a GPU that is the weights' own, but float32 for float16: activations of this network exceed its
        range. On a CPU it is float32, in which products are fastest. The official code takes bfloat16, as
        released weights do here on a GPU (Wan2.1 wan/configs/shared_config.py, t5_dtype).
        """
        x = self.token_embedding(ids)
        return x if on_gpu() and x.dtype != mx.float16 else x.astype(mx.float32)

    def buckets(self, length: int) -> mx.array:
        """What every block needs to know about positions, [length, length] int32."""
        return mx.array(relative_buckets(length, self.config.num_buckets))

    def __call__(self, ids: mx.array) -> mx.array:
        """Encode one text.

        Args:
            ids: [n], int32, without padding.

        Returns:
            [n, dim], in the type of :meth:`embed`.
        """
        x, buckets = self.embed(ids), self.buckets(ids.shape[0])
        for block in self.blocks:
            x = block(x, buckets)
            # Block by block: one graph of all would be one dispatch, with every intermediate alive.
            mx.eval(x)
        return self.norm(x)
