"""LongCat-Video's transformer: every latent frame has its own timestep, clean frames stand first."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import CrossAttentionCache, PromptTokens, TimeFeatures
from mlx_video.models.elementwise import gelu_tanh
from mlx_video.models.longcat.blocks import LongCatBlock, LongCatHead
from mlx_video.models.matmul import project
from mlx_video.models.token_layout import TokenLayout
from mlx_video.models.transformer import WanTransformer, sinusoid


class LongCatTransformer(WanTransformer):
    """Predicts the velocity of noisy latents, given text and clean latents before them.

    Clean frames are segments of the layout at timestep 0. They see only each other, and no text.

    Source: meituan-longcat/LongCat-Video longcat_video/modules/longcat_video_dit.py,
    LongCatVideoTransformer3DModel.
    """

    def build_layers(self, config: TransformerConfig) -> None:
        """See :class:`WanTransformer`."""
        assert config.time_dim is not None
        dim, patch_cells = config.dim, math.prod(config.patch_size)
        self.patch_embedding_proj = nn.Linear(config.in_dim * patch_cells, dim)
        self.text_embedding_0 = nn.Linear(config.text_dim, dim)
        self.text_embedding_1 = nn.Linear(dim, dim)
        self.time_embedding_0 = nn.Linear(config.freq_dim, config.time_dim)
        self.time_embedding_1 = nn.Linear(config.time_dim, config.time_dim)
        self.blocks = [LongCatBlock(config) for _ in range(config.num_layers)]
        self.head = LongCatHead(config, config.out_dim * patch_cells)

    def project_text(
        self, context: mx.array, image_tokens: mx.array | CrossAttentionCache | None = None
    ) -> PromptTokens:
        """See :class:`VideoTransformer`."""
        self._check_image(image_tokens)
        padding = self.config.text_len - context.shape[0]
        if padding < 0:
            raise ValueError(
                f"context has {context.shape[0]} rows, the transformer takes {self.config.text_len}"
            )
        hidden = gelu_tanh(project(self.text_embedding_0, context))
        # Padded behind the layers, unlike Wan's: the blocks attend to zeros there.
        text = mx.pad(project(self.text_embedding_1, hidden), [(0, padding), (0, 0)])
        return PromptTokens(CrossAttentionCache(text))

    def embed_time(self, timestep: float, layout: TokenLayout) -> TimeFeatures:
        """See :class:`VideoTransformer`."""
        values, spans = layout.find_timesteps(timestep)
        if self.patch_embedding_proj.weight.dtype == mx.bfloat16:
            # As the authors' code rounds them, and as the model saw them in training: 992.8 becomes 992.
            values = np.array(mx.array(values, mx.float32).astype(mx.bfloat16).astype(mx.float32), np.float64)
        hidden = nn.silu(project(self.time_embedding_0, sinusoid(values, self.config.freq_dim), mx.float32))
        embedding = project(self.time_embedding_1, hidden, mx.float32)
        return TimeFeatures(embedding, nn.silu(embedding), spans)
