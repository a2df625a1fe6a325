"""Mixture of transformers: a reference video as a second stream, with weights of its own in some blocks."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import (
    AttentionSite,
    Block,
    BlockContext,
    BlockHook,
    PromptTokens,
    TimeFeatures,
)
from mlx_video.models.shared_forward import share_context
from mlx_video.models.token_layout import TokenLayout, video_layout
from mlx_video.models.transformer import Embeddings, WanTransformer, token_grid
from mlx_video.models.transformer_block import BlockLayers, TransformerBlock

REFERENCE_TIMESTEP = 1.0
"""Timestep of the reference in every step, 0 to 1000: not quite free of noise."""


class Reference(NamedTuple):
    """Stream of a reference video between two blocks.

    Attributes:
        tokens: [R, dim], float32.
        context: of the stream: its time features, positions and prompt.
    """

    tokens: mx.array
    context: BlockContext


class MoTBlock(TransformerBlock):
    """Block of the main stream that also has the layers of the reference stream.

    Source: bytedance/Video-As-Prompt diffusers transformer_wan_mot.py, WanTransformerMOTBlock;
    modelscope/DiffSynth-Studio diffsynth/models/wan_video_mot.py, MotWanAttentionBlock.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.mot_ref = BlockLayers(config)

    def __call__(  # type: ignore[override]
        self, x: mx.array, context: BlockContext, reference: Reference
    ) -> tuple[mx.array, mx.array]:
        """Run the block for both streams, which attend to each other's tokens.

        Args:
            x: main stream [L, dim], float32.
            context: of this block.
            reference: the other stream.

        Returns:
            [L, dim] and [R, dim], float32.
        """
        streams = ((self, x, context), (self.mot_ref, reference.tokens, reference.context))
        tables = [layers.modulate_time(own.time) for layers, _, own in streams]
        heads = [
            layers.self_attn.project_heads(layers.enter(tokens, table, own.time), own.rotary)
            for (layers, tokens, own), table in zip(streams, tables, strict=True)
        ]
        joined = [
            own.sharing.join_keys_values(queries, keys, values, own.layout.num_tokens)
            for (queries, keys, values), (_, _, own) in zip(heads, streams, strict=True)
        ]
        queries = mx.concatenate([queries for queries, _, _ in heads], axis=2)
        keys, values = (mx.concatenate([*pair], axis=2) for pair in zip(*joined, strict=True))
        site = AttentionSite("self", self.self_attn, context, sees_all=True)
        mixed = context.attention(queries, keys, values, site)
        del heads, joined, queries, keys, values
        parts = mx.split(mixed, [len(x)], axis=2)
        main, other = (
            layers.leave(tokens, layers.self_attn.merge(part), table, own)
            for (layers, tokens, own), table, part in zip(streams, tables, parts, strict=True)
        )
        return main, other


class MoTTransformer(WanTransformer):
    """Image-to-video transformer with an expert for a reference video.

    Source: bytedance/Video-As-Prompt diffusers transformer_wan_mot.py, WanTransformer3DMOTModel.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.mot_ref = Embeddings(config)
        for index in config.mot_layers:
            self.blocks[index] = MoTBlock(config)


class MoTHook(BlockHook):
    """Stream of a reference video beside that of one pass.

    It sees the noisy tokens, so it runs anew in every step. Behind its last block nothing reads it.

    Args:
        transformer: loaded.
        reference_latents: the reference video as an image-to-video model's input, [in_dim, T, H, W].
        prompt: what this stream reads, at the expert's width.

    Raises:
        ValueError: the latents have other channels than the model takes.
    """

    takes_some_tokens = True

    def __init__(
        self, transformer: MoTTransformer, reference_latents: mx.array, prompt: PromptTokens
    ) -> None:
        config = transformer.config
        if len(reference_latents) != config.in_dim:
            raise ValueError(
                f"reference of {len(reference_latents)} channels, the transformer takes {config.in_dim}"
            )
        _, frames, rows, columns = reference_latents.shape
        self._transformer = transformer
        self._latents = reference_latents
        self._prompt = prompt
        # Before the video in time.
        grid = token_grid((frames, rows, columns), config.patch_size)
        self._layout: TokenLayout = video_layout(grid).shift_times(-frames)
        self._stream: Reference | None = None

    def before_blocks(self, tokens: mx.array, context: BlockContext) -> mx.array:
        """See :meth:`BlockHook.before_blocks`."""
        expert, layout = self._transformer.mot_ref, self._layout
        time: TimeFeatures = expert.embed_time(REFERENCE_TIMESTEP, layout)
        whole = BlockContext(context.step, time, layout, self._transformer.rotary_table(layout), self._prompt)
        own = share_context(whole, context.sharing)
        self._stream = Reference(expert.embed_patches(self._latents)[own.rows], own)
        return tokens

    def join_block(self, block: Block, index: int) -> Block:
        """See :meth:`BlockHook.join_block`."""
        layers = self._transformer.config.mot_layers
        if index not in layers:
            return block

        def run(x: mx.array, context: BlockContext) -> mx.array:
            assert self._stream is not None
            tokens, own = self._stream
            x, tokens = block(x, context, Reference(tokens, own.at(index)))
            self._stream = Reference(tokens, own) if index != layers[-1] else None
            return x

        return run
