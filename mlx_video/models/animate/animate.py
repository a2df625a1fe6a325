"""Animate: image-to-video transformer that also follows poses and a face."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.animate.face_adapter import FaceAdapter, order_face_blocks
from mlx_video.models.animate.face_encoder import FaceEncoder
from mlx_video.models.animate.motion_encoder import MotionEncoder
from mlx_video.models.block_context import (
    Block,
    BlockContext,
    BlockHook,
    CrossAttentionCache,
    PromptTokens,
)
from mlx_video.models.elementwise import add_residual
from mlx_video.models.matmul import project
from mlx_video.models.token_layout import TokenLayout
from mlx_video.models.transformer import WanTransformer, patchify


class AnimateTransformer(WanTransformer):
    """Image-to-video transformer with what reads poses and a face.

    Its first latent frame is a picture of the character, to which neither poses nor a face belong.

    Source: Wan2.2 wan/modules/animate/model_animate.py, WanAnimateModel.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        face = config.face
        assert face is not None
        self.pose_patch_embedding_proj = nn.Linear(face.pose_dim * math.prod(config.patch_size), config.dim)
        self.motion_encoder = MotionEncoder(face)
        self.face_encoder = FaceEncoder(face, config.dim)
        self.face_adapter = FaceAdapter(config)

    def encode_face(self, faces: Iterable[mx.array]) -> mx.array:
        """Tokens of a face.

        Args:
            faces: [512, 512, 3] in [-1, 1] for each frame of the video.

        Returns:
            [1 + T, K, dim], float32, evaluated. Those of the character's picture are zeros.
        """
        tokens = self.face_encoder(self.motion_encoder.encode_video(faces))
        tokens = mx.pad(tokens, [(1, 0), (0, 0), (0, 0)])
        mx.eval(tokens)
        return tokens

    def embed_poses(self, pose_latents: mx.array) -> mx.array:
        """Tokens of the poses.

        Args:
            pose_latents: [pose_dim, T, H, W].

        Returns:
            [T·H·W/4, dim] in the weights' type.

        Raises:
            ValueError: the transformer takes other channels.
        """
        assert self.config.face is not None
        if len(pose_latents) != self.config.face.pose_dim:
            raise ValueError(
                f"poses of {len(pose_latents)} channels, the transformer takes {self.config.face.pose_dim}"
            )
        return project(self.pose_patch_embedding_proj, patchify(pose_latents, self.config.patch_size))


class AnimateHook(BlockHook):
    """Poses and a face in one pass.

    Args:
        transformer: loaded.
        pose_latents: [pose_dim, T, H, W], of all latent frames but the first.
        face_tokens: [1 + T, K, dim], from :meth:`AnimateTransformer.encode_face`.
    """

    def __init__(
        self, transformer: AnimateTransformer, pose_latents: mx.array, face_tokens: mx.array
    ) -> None:
        self.further_blocks = MappingProxyType(order_face_blocks(transformer.config))
        self._transformer = transformer
        self._pose_latents = pose_latents
        self._face = PromptTokens(CrossAttentionCache(face_tokens))

    def extend(self, tokens: mx.array, layout: TokenLayout) -> tuple[mx.array, TokenLayout]:
        """See :meth:`BlockHook.extend`."""
        # Made in every step: kept, they would take as much memory as the stream.
        poses = self._transformer.embed_poses(self._pose_latents)
        first = len(tokens) - len(poses)
        if first * (1 + self._pose_latents.shape[1]) != len(tokens):
            raise ValueError(f"poses of {len(poses)} tokens for a video of {len(tokens)}")
        return mx.concatenate([tokens[:first], add_residual(tokens[first:], poses)]), layout

    def run_block(self, tokens: mx.array, context: BlockContext, block: Block) -> mx.array:
        """See :meth:`BlockHook.run_block`."""
        return add_residual(tokens, block(tokens, replace(context, text=self._face)))
