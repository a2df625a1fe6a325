"""Transformers of the Fun family: a reference image as further tokens, a camera path added to all tokens."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import BlockHook
from mlx_video.models.control.camera_adapter import CameraAdapter
from mlx_video.models.matmul import project
from mlx_video.models.token_layout import Segment, TokenLayout
from mlx_video.models.transformer import WanTransformer, patchify


class FunTransformer(WanTransformer):
    """Transformer with the networks that its config names: for a reference image, for a camera path.

    Source: aigc-apps/VideoX-Fun videox_fun/models/wan_transformer3d.py, WanTransformer3DModel.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        if config.reference_dim is not None:
            self.ref_conv = nn.Linear(config.reference_dim * math.prod(config.patch_size), config.dim)
        if config.camera_dim is not None:
            self.control_adapter = CameraAdapter(config)

    def embed_reference(self, reference: mx.array) -> mx.array:
        """Tokens of a reference image.

        Args:
            reference: its latents, [C, H, W].

        Returns:
            [H·W/4, dim], float32.

        Raises:
            ValueError: the transformer takes other channels.
        """
        if len(reference) != self.config.reference_dim:
            raise ValueError(
                f"reference of {len(reference)} channels, the transformer takes {self.config.reference_dim}"
            )
        return project(self.ref_conv, patchify(reference[:, None], self.config.patch_size)).astype(mx.float32)


class ReferenceHook(BlockHook):
    """Tokens of a reference image, one moment before the video's; they are no part of the result.

    Args:
        reference_tokens: [H·W/4, dim], float32: as many as one frame of the video has.
    """

    def __init__(self, reference_tokens: mx.array) -> None:
        self._reference_tokens = reference_tokens

    def extend(self, tokens: mx.array, layout: TokenLayout) -> tuple[mx.array, TokenLayout]:
        """See :meth:`BlockHook.extend`."""
        first = layout.segments[0]
        reference = Segment(first.times[:1], first.rows, first.columns, is_output=False)
        if reference.num_tokens != len(self._reference_tokens):
            raise ValueError(
                f"{len(self._reference_tokens)} reference tokens for frames of {reference.num_tokens}"
            )
        longer = TokenLayout((reference, *layout.shift_times(1).segments))
        return mx.concatenate([self._reference_tokens, tokens]), longer
