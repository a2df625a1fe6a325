"""Heads and feed-forward of every block shared out over processes, for weights that do not fit in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from mlx_video.distributed.collectives import Collectives
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.models.block_context import Pass
from mlx_video.models.matmul import project, split_heads
from mlx_video.models.rope import RotaryTable, rotate
from mlx_video.models.token_sharing import AllTokens
from mlx_video.models.transformer_block import BlockLayers, CrossAttention, FeedForward, SelfAttention
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.weights.block_shares import (
    BlockShare,
    SharedTensors,
    find_group_size,
    share_blocks,
)


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """The layers of each block, shared out by heads and by channels of the feed-forward.

    Every process computes all tokens with its part of the layers; what attentions and feed-forward give is
    added up, three times in a block. Embeddings, norms of the stream and the head are whole everywhere.

    Attributes:
        collectives: exchanges among the processes.
    """

    collectives: Collectives

    def split(self, transformer: VideoTransformer, source: TensorSource) -> SharedTensors:
        """Give every block this process's part of its layers.

        Args:
            transformer: just built, without weights.
            source: its tensors.

        Returns:
            The tensors to load into it: of the others nothing is kept. Closes `source` with itself. Its
            `share` cuts adapters, with `lora.shared_changes.share_adapters`.

        Raises:
            ValueError: there are fewer heads than processes.
            CheckpointError: a tensor cannot be cut.
        """
        config, group_size = transformer.config, find_group_size(transformer.config, source.infos)
        share = share_blocks(config, self.collectives.rank, self.collectives.size, group_size)
        for block in transformer.modules():
            if isinstance(block, BlockLayers):
                assert isinstance(block.self_attn, SelfAttention)
                assert isinstance(block.cross_attn, CrossAttention)
                block.self_attn = SharedSelfAttention(block.self_attn, share, self.collectives)
                block.cross_attn = SharedCrossAttention(block.cross_attn, share, self.collectives)
                block.ffn = SharedFeedForward(share, self.collectives)
        return SharedTensors(source, share)

    def share(self, one: Pass) -> Pass:
        """A pass whose step cache decides alike in all processes."""
        return replace(one, sharing=Agreed(self.collectives))


@dataclass(frozen=True, slots=True)
class Agreed(AllTokens):
    """The `TokenSharing` of processes that all compute all tokens, equal but for rounding."""

    collectives: Collectives

    def mean(self, rows: mx.array) -> mx.array:
        """See `TokenSharing`."""
        return self.collectives.gather(mx.mean(rows.astype(mx.float32))[None]).mean()

    def add_heads(self, sums: mx.array) -> mx.array:
        """See `TokenSharing`."""
        return add_up(sums, self.collectives)


class SharedRMSNorm(nn.RMSNorm):
    """RMS norm over the channels of all processes, of which this one has some.

    Args:
        channels: of this process.
        dim: of all.
        eps: added to the mean square.
        collectives: exchanges among the processes.
    """

    def __init__(self, channels: int, dim: int, eps: float, collectives: Collectives) -> None:
        super().__init__(channels, eps)
        self.dim = dim
        self._collectives = collectives

    def __call__(self, x: mx.array) -> mx.array:
        """[L, channels] → the same shape."""
        total = self._collectives.sum(sum_squares(x))
        mx.eval(total)
        return self.scale(x, total)

    def scale(self, x: mx.array, squares: mx.array) -> mx.array:
        """Normalize.

        Args:
            x: [L, channels], any floating type.
            squares: sum over all channels, [L, 1], float32.

        Returns:
            [L, channels] in the type that the weight makes of it.
        """
        factor = mx.rsqrt(squares / self.dim + self.eps)
        scaled = x.astype(mx.float32) * factor * self.weight.astype(mx.float32)
        return scaled.astype(mx.result_type(x, self.weight))


def sum_squares(x: mx.array) -> mx.array:
    """Sum of the squares of each row, [L, C] → [L, 1], float32."""
    wide = x.astype(mx.float32)
    return (wide * wide).sum(axis=-1, keepdims=True)


class SharedSelfAttention(SelfAttention):
    """Self-attention of some heads; what it gives is the sum of all processes.

    Args:
        whole: the layer that it takes the place of.
        share: this process's heads.
        collectives: exchanges among the processes.
    """

    def __init__(self, whole: SelfAttention, share: BlockShare, collectives: Collectives) -> None:
        nn.Module.__init__(self)
        share_attention(self, whole.norm_q.eps, share, collectives)
        self._collectives = collectives

    def project_heads(self, x: mx.array, rotary: RotaryTable) -> tuple[mx.array, mx.array, mx.array]:
        """See :class:`SelfAttention`."""
        queries, keys = project(self.q, x), project(self.k, x)
        squares = self._collectives.sum(mx.concatenate([sum_squares(queries), sum_squares(keys)], axis=1))
        values = project(self.v, x)
        mx.eval(values)  # while the squares are under way
        mx.eval(squares)
        return (
            self._turn(self.norm_q.scale(queries, squares[:, :1]), rotary, values.dtype),
            self._turn(self.norm_k.scale(keys, squares[:, 1:]), rotary, values.dtype),
            split_heads(values, self.num_heads),
        )

    def merge(self, mixed: mx.array) -> mx.array:
        """See :class:`SelfAttention`."""
        return add_up(super().merge(mixed), self._collectives)

    def _turn(self, x: mx.array, rotary: RotaryTable, dtype: mx.Dtype) -> mx.array:
        """Turned by position, [L, channels] → [1, N, L, D]."""
        turned = rotate(x.reshape(len(x), self.num_heads, -1), rotary)
        return turned.astype(dtype)[None].swapaxes(1, 2)


class SharedCrossAttention(CrossAttention):
    """Cross-attention of some heads; arguments as for :class:`SharedSelfAttention`."""

    def __init__(self, whole: CrossAttention, share: BlockShare, collectives: Collectives) -> None:
        nn.Module.__init__(self)
        eps = whole.norm_q.eps
        share_attention(self, eps, share, collectives)
        if "k_img" in whole:
            channels = len(share.channels)
            self.k_img = nn.Linear(share.dim, channels)
            self.v_img = nn.Linear(share.dim, channels)
            self.norm_k_img = SharedRMSNorm(channels, share.dim, eps, collectives)
        self._collectives = collectives

    def merge(self, mixed: mx.array) -> mx.array:
        """See :class:`SelfAttention`."""
        return add_up(super().merge(mixed), self._collectives)


class SharedFeedForward(FeedForward):
    """Feed-forward of some hidden channels; what it gives is the sum of all processes.

    Args:
        share: this process's channels.
        collectives: exchanges among the processes.
    """

    def __init__(self, share: BlockShare, collectives: Collectives) -> None:
        super().__init__(share.dim, len(share.hidden))
        self._collectives = collectives

    def __call__(self, x: mx.array) -> mx.array:
        """See :class:`FeedForward`."""
        return add_up(super().__call__(x), self._collectives)


def share_attention(layer: SelfAttention, eps: float, share: BlockShare, collectives: Collectives) -> None:
    """Give an attention the projections and norms of some heads."""
    dim, channels = share.dim, len(share.channels)
    layer.num_heads = len(share.heads)
    for name in ("q", "k", "v"):
        setattr(layer, name, nn.Linear(dim, channels))
        if name != "v":
            setattr(layer, f"norm_{name}", SharedRMSNorm(channels, dim, eps, collectives))
    layer.o = nn.Linear(channels, dim)


def add_up(x: mx.array, collectives: Collectives) -> mx.array:
    """The sum of all processes, evaluated: what follows must not wait for it on a GPU."""
    mx.eval(x)
    total = collectives.sum(x)
    mx.eval(total)
    return total
