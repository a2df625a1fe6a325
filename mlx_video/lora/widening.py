"""Adapters for which a text-to-video transformer takes a video beside the noise: a wider patch embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_video.config import TransformerConfig
from mlx_video.weights.names.transformer_names import PATCH_CELLS

PATCH_EMBEDDING = "patch_embedding_proj"
PATCH_WEIGHT = f"{PATCH_EMBEDDING}.weight"


@dataclass(frozen=True, slots=True)
class Widening:
    """Input channels that a transformer gets behind its own.

    Attributes:
        stored: channels that it takes without adapters, as its file has them.
        taken: channels that it takes with them.
    """

    stored: int
    taken: int

    @property
    def columns(self) -> int:
        """Columns of the wide patch embedding."""
        return self.taken * PATCH_CELLS

    def narrow(self, config: TransformerConfig) -> TransformerConfig:
        """Sizes of the transformer as it is stored."""
        return replace(config, in_dim=self.stored)


def wide_channels(config: TransformerConfig) -> int | None:
    """Input channels that a control adapter may bring a transformer to: those of the noise, and of a video.

    Source: spacepxl/WanTraining test_wan_control_lora.py, main.

    Returns:
        None for a transformer that takes more than text, or that is as wide already.
    """
    takes_text_alone = config.model_type == "t2v" and config.in_dim == config.out_dim
    return 2 * config.out_dim if takes_text_alone else None


def widen_columns(matrix: mx.array, columns: int) -> mx.array:
    """A matrix with columns of zeros behind its own."""
    return mx.pad(matrix, [(0, 0), (0, columns - matrix.shape[1])])
