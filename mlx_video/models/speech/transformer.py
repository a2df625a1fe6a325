"""Speech-to-video transformer: sound, poses, a reference image and earlier frames beside the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import Block, BlockContext, BlockHook
from mlx_video.models.elementwise import add_residual
from mlx_video.models.matmul import project
from mlx_video.models.speech.audio_block import AudioBlock, order_audio_blocks
from mlx_video.models.speech.motion_tokens import FramePacker, motion_segments
from mlx_video.models.speech.sound_features import SoundEncoder, SoundFeatures
from mlx_video.models.token_layout import Segment, TokenLayout
from mlx_video.models.transformer import WanTransformer, patchify

REFERENCE_TIME = 30.0
"""Where in time the reference image lies: behind every clip that the model was trained with."""
NOISE, REFERENCE, MOTION = range(3)
"""Rows of `trainable_cond_mask`: what a token is."""


class SpeechTransformer(WanTransformer):
    """Text-to-video transformer with the networks of speech-to-video.

    Source: Wan2.2 wan/modules/s2v/model_s2v.py, WanModel_S2V.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        patch_cells = math.prod(config.patch_size)
        self.cond_encoder = nn.Linear(config.pose_dim * patch_cells, config.dim)
        self.trainable_cond_mask = mx.zeros((3, config.dim))
        self.frame_packer = FramePacker(config)
        self.sound_encoder = SoundEncoder(config)
        self.audio_blocks: Sequence[AudioBlock] = [AudioBlock(config) for _ in config.audio_layers]

    def mark(self, tokens: mx.array, kind: int) -> mx.array:
        """Tokens [L, dim] with what tells of which kind they are, float32."""
        return tokens.astype(mx.float32) + self.trainable_cond_mask[kind].astype(mx.float32)

    def embed_pose(self, pose: mx.array) -> mx.array:
        """Latents of a pose video [C, T, H, W] → what is added to the video's tokens, [L, dim]."""
        return project(self.cond_encoder, patchify(pose, self.config.patch_size))


@dataclass(frozen=True, slots=True)
class SpeechInputs:
    """What stands beside the noise of a clip, besides its sound.

    Attributes:
        pose: latents of a pose video, [C, T, H, W]; zeros for none.
        reference: latents of the reference image, [C, 1, H, W].
        motion: latents of earlier frames, [C, n, H, W]; None for a clip that reads none.
    """

    pose: mx.array
    reference: mx.array
    motion: mx.array | None = None

    def take_frames(self, frames: mx.array) -> SpeechInputs:
        """The inputs of some of the clip's latent frames, by their numbers."""
        return replace(self, pose=self.pose[:, frames])


class SpeechTokens(BlockHook):
    """Tokens of a reference image and of earlier frames behind those of the video, and poses added to these.

    Args:
        transformer: loaded.
        inputs: of the clip.
    """

    def __init__(self, transformer: SpeechTransformer, inputs: SpeechInputs) -> None:
        self._transformer, self._inputs = transformer, inputs
        self._beside: mx.array | None = None

    def extend(self, tokens: mx.array, layout: TokenLayout) -> tuple[mx.array, TokenLayout]:
        """See :meth:`BlockHook.extend`."""
        network, inputs = self._transformer, self._inputs
        video = network.mark(tokens + network.embed_pose(inputs.pose), NOISE)
        if self._beside is None:  # the same in every step
            parts = [network.mark(network.embed_patches(inputs.reference), REFERENCE)]
            if inputs.motion is not None:
                parts.append(network.mark(network.frame_packer(inputs.motion), MOTION))
            self._beside = mx.concatenate(parts)
        return mx.concatenate([video, self._beside]), TokenLayout((*layout.segments, *self._segments(layout)))

    def _segments(self, layout: TokenLayout) -> tuple[Segment, ...]:
        first, (_, _, height, width) = layout.segments[0], self._inputs.pose.shape
        reference = Segment((REFERENCE_TIME,), first.rows, first.columns, timestep=0.0, is_output=False)
        return (reference, *(motion_segments(height, width) if self._inputs.motion is not None else ()))


class SoundHook(BlockHook):
    """Sound that the video's tokens attend to behind some of the blocks.

    Args:
        transformer: loaded.
        sound: of the frames that a forward sees.
    """

    def __init__(self, transformer: SpeechTransformer, sound: SoundFeatures) -> None:
        self.further_blocks = MappingProxyType(order_audio_blocks(transformer.config))
        self._sound = sound

    def run_block(self, tokens: mx.array, context: BlockContext, block: Block) -> mx.array:
        """See :meth:`BlockHook.run_block`."""
        count = context.layout.num_outputs
        video, beside = tokens[:count], tokens[count:]
        return mx.concatenate([add_residual(video, block(video, context, self._sound)), beside])
