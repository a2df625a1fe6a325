"""Attention of a video's tokens to the sound of their frame, behind some of the blocks."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import BlockContext
from mlx_video.models.block_order import BlockName, FurtherBlocks
from mlx_video.models.kernels.layer_norm import layer_norm
from mlx_video.models.matmul import attend, project
from mlx_video.models.speech.sound_features import SoundFeatures
from mlx_video.models.transformer_block import SelfAttention

EPS = 1e-5
"""Of the norm that the sound shifts and scales; that of the blocks is another."""
AUDIO_BLOCKS = "audio_blocks"


def order_audio_blocks(config: TransformerConfig) -> FurtherBlocks:
    """Which audio block has its turn behind which main block."""
    return {layer: BlockName(AUDIO_BLOCKS, number) for number, layer in enumerate(config.audio_layers)}


class AudioBlock(SelfAttention):
    """Each frame's tokens, shifted and scaled by its sound as a whole, attend to the tokens of its sound.

    Source: Wan2.2 wan/modules/s2v/model_s2v.py, WanModel_S2V.after_transformer_block.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.dim, config.num_heads, config.eps)
        self.adain = nn.Linear(config.dim, 2 * config.dim)

    def __call__(  # type: ignore[override]  # it attends to what stands beside the context
        self, x: mx.array, context: BlockContext, sound: SoundFeatures
    ) -> mx.array:
        """What the sound adds to tokens.

        Args:
            x: [F · n, dim], float32: the n tokens of each latent frame, frame after frame.
            context: of the main block before.
            sound: of these frames.

        Returns:
            [F · n, dim] in the weights' type.
        """
        count, dim = len(sound.vectors), x.shape[-1]
        # Small, and never quantized: float32 as the official code has it.
        table = project(self.adain, nn.silu(sound.vectors), mx.float32).reshape(count, 2, dim)
        frames = x.reshape(count, -1, dim)
        parts = [
            layer_norm(frame, 1 + row[1], row[0], EPS, self.input_dtype)
            for frame, row in zip(frames, table, strict=True)
        ]
        keys, values = self._read(sound.tokens)
        queries = self._split(self.norm_q(project(self.q, mx.concatenate(parts))), count).astype(values.dtype)
        mixed = attend(queries, keys, values, self.scale)
        return project(self.o, mixed.swapaxes(1, 2).reshape(-1, dim))

    def _read(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values [F, N, 5, D] of the sound's tokens [F, 5, dim]."""
        flat = tokens.reshape(-1, tokens.shape[-1])
        values = project(self.v, flat)
        keys = self.norm_k(project(self.k, flat)).astype(values.dtype)
        return self._split(keys, len(tokens)), self._split(values, len(tokens))

    def _split(self, x: mx.array, count: int) -> mx.array:
        """[F · n, dim] → [F, N, n, D]."""
        return x.reshape(count, len(x) // count, self.num_heads, -1).swapaxes(1, 2)
