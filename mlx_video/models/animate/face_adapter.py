"""Face adapter: attention of the video's tokens to those of the face, frame by frame."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import BlockContext, KeysValues
from mlx_video.models.block_order import BlockName, FurtherBlocks
from mlx_video.models.kernels.layer_norm import layer_norm
from mlx_video.models.matmul import attend, compute_dtype, project

EPS = 1e-6


class FaceBlock(nn.Module):
    """Cross-attention of each latent frame to its face, without positions and gates.

    Queries and keys are normalized head by head, unlike those of the transformer's blocks.

    Source: Wan2.2 wan/modules/animate/face_blocks.py, FaceBlock.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear1_kv = nn.Linear(dim, 2 * dim)
        self.linear1_q = nn.Linear(dim, dim)
        self.linear2 = nn.Linear(dim, dim)
        self.q_norm = nn.RMSNorm(dim // num_heads, eps=EPS)
        self.k_norm = nn.RMSNorm(dim // num_heads, eps=EPS)

    def keys_values(self, face_tokens: mx.array) -> KeysValues:
        """Keys and values of the face; they depend on it alone.

        Args:
            face_tokens: [T, K, dim].

        Returns:
            [T, N, K, D] each.
        """
        frames, count, dim = face_tokens.shape
        rows = face_tokens.reshape(frames * count, dim).astype(mx.float32)
        normalized = mx.fast.layer_norm(rows, None, None, EPS)
        both = project(self.linear1_kv, normalized).reshape(frames, count, 2, self.num_heads, -1)
        keys, values = (both[:, :, index].swapaxes(1, 2) for index in range(2))
        return KeysValues(self.k_norm(keys).astype(values.dtype), values)

    def __call__(self, x: mx.array, context: BlockContext) -> mx.array:
        """Read the face.

        Args:
            x: residual stream [L, dim], float32, of T frames of equally many tokens.
            context: of the main block before; its text are the face tokens [T, K, dim].

        Returns:
            What is added to the stream, [L, dim] in the weights' type.
        """
        face = context.text.text.keys_values(context.index, self.keys_values)
        dim, frames = x.shape[-1], len(face.keys)
        ones, zeros = mx.ones(dim), mx.zeros(dim)
        queries = project(self.linear1_q, layer_norm(x, ones, zeros, EPS, compute_dtype(self.linear1_q)))
        queries = self.q_norm(queries.reshape(frames, len(x) // frames, self.num_heads, -1))
        queries = queries.astype(face.values.dtype).swapaxes(1, 2)
        mixed = attend(queries, face.keys, face.values, queries.shape[-1] ** -0.5)
        return project(self.linear2, mixed.swapaxes(1, 2).reshape(x.shape))


class FaceAdapter(nn.Module):
    """The face blocks of a transformer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.face is not None
        self.fuser_blocks = [FaceBlock(config.dim, config.num_heads) for _ in config.face.layers]


def order_face_blocks(config: TransformerConfig) -> FurtherBlocks:
    """Which face block has its turn behind which main block."""
    layers = config.face.layers if config.face else ()
    return {layer: BlockName("face_adapter.fuser_blocks", number) for number, layer in enumerate(layers)}
