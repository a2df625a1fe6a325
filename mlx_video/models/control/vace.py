"""VACE: a second stream of tokens beside the transformer's, whose blocks give hints to some of its blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import Block, BlockContext, BlockHook
from mlx_video.models.block_order import BlockName, FurtherBlocks
from mlx_video.models.elementwise import add_gated, add_residual
from mlx_video.models.matmul import project
from mlx_video.models.transformer import WanTransformer, patchify
from mlx_video.models.transformer_block import BlockLayers


class VACEBlock(BlockLayers):
    """Transformer block of the VACE stream, and the layer that makes a hint of what leaves it.

    Source: Wan2.1 wan/modules/vace_model.py, VaceWanAttentionBlock.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.after_proj = nn.Linear(config.dim, config.dim)

    def __call__(self, x: mx.array, context: BlockContext) -> tuple[mx.array, mx.array]:
        """Run the block.

        Args:
            x: VACE stream [L, dim], float32.
            context: of this block.

        Returns:
            The stream as it goes on, [L, dim], float32; and the hint for the main stream, which is made of
            it, [L, dim] in the weights' type.
        """
        stream = self.run_layers(x, context)
        return stream, project(self.after_proj, stream)


def order_vace_blocks(config: TransformerConfig) -> FurtherBlocks:
    """Which VACE block has its turn behind which main block."""
    return {layer: BlockName("vace_blocks", number) for number, layer in enumerate(config.vace_layers)}


class VACETransformer(WanTransformer):
    """Text-to-video transformer with the VACE stream beside it.

    Source: Wan2.1 wan/modules/vace_model.py, VaceWanModel.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        patch_cells = math.prod(config.patch_size)
        self.vace_patch_embedding_proj = nn.Linear(config.vace_in_dim * patch_cells, config.dim)
        # Apart from the first block: it is needed before that has its turn, and so all blocks are alike.
        self.vace_before_proj = nn.Linear(config.dim, config.dim)
        self.vace_blocks: Sequence[VACEBlock] = [VACEBlock(config) for _ in config.vace_layers]

    def begin_vace(self, vace_context: mx.array, tokens: mx.array, rows: slice | None = None) -> mx.array:
        """VACE stream as it enters its first block.

        Args:
            vace_context: [vace_in_dim, T, H, W].
            tokens: main stream [L, dim], float32, as it enters block 0.
            rows: which of all tokens these are; None for all.

        Returns:
            [L, dim], float32.

        Raises:
            ValueError: channels or sizes do not fit the model or the tokens.
        """
        if vace_context.shape[0] != self.config.vace_in_dim:
            raise ValueError(
                f"{vace_context.shape[0]} VACE channels, the transformer takes {self.config.vace_in_dim}"
            )
        patches = patchify(vace_context, self.config.patch_size)
        if rows:
            patches = patches[rows]
        if len(patches) != len(tokens):
            raise ValueError(f"VACE context of {len(patches)} tokens beside a video of {len(tokens)}")
        embedded = project(self.vace_patch_embedding_proj, patches)
        return add_residual(tokens, project(self.vace_before_proj, embedded))


class VACEHook(BlockHook):
    """VACE stream of one pass, a block at a time.

    Each VACE block runs behind the block that its hint is added to, so that no hint is ever kept. This is the
    official order in effect, since the stream sees the main one only where both begin.

    Args:
        transformer: loaded.
        vace_context: [vace_in_dim, T, H, W].
        scales: of the hints, one for each VACE block.

    Raises:
        ValueError: there is another number of scales.
    """

    takes_some_tokens = True

    def __init__(self, transformer: VACETransformer, vace_context: mx.array, scales: Sequence[float]) -> None:
        layers = transformer.config.vace_layers
        if len(scales) != len(layers):
            raise ValueError(f"{len(scales)} VACE scales for {len(layers)} VACE blocks")
        self._transformer = transformer
        self._vace_context = vace_context
        # Nothing reads what comes behind the last hint that counts.
        count = max((number for number, scale in enumerate(scales, 1) if scale), default=0)
        self._scales = scales[:count]
        turns = order_vace_blocks(transformer.config)
        self.further_blocks = MappingProxyType({layer: turns[layer] for layer in layers[:count]})
        self._stream: mx.array | None = None

    def before_blocks(self, tokens: mx.array, context: BlockContext) -> mx.array:
        """See :meth:`BlockHook.before_blocks`."""
        if self._scales:
            self._stream = self._transformer.begin_vace(self._vace_context, tokens, context.rows)
        return tokens

    def run_block(self, tokens: mx.array, context: BlockContext, block: Block) -> mx.array:
        """See :meth:`BlockHook.run_block`."""
        assert self._stream is not None
        number = self.further_blocks[context.index].index
        scale = self._scales[number]
        # Its cross-attention is one of its own, numbered behind those of the main stream.
        own = context.at(self._transformer.config.num_layers + number)
        # Behind the main block, though it does not depend on it: both at once would take twice the memory.
        (entering,) = mx.depends([self._stream], [tokens])
        stream, hint = block(entering, own)
        self._stream = stream if number + 1 < len(self._scales) else None
        return add_gated(tokens, hint, mx.array(scale)) if scale else tokens
