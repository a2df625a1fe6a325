"""The transformer's image branch before its blocks: image features to tokens of the transformer's width."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.elementwise import gelu_erf
from mlx_video.models.matmul import project

EPS = 1e-5


class ImageProjection(nn.Module):
    """Norm, linear layer, GELU, linear layer, norm; in some models after a position is added to each token.

    Args:
        image_dim: channels of the image features.
        dim: channels of the transformer.
        num_positions: image tokens that have a position of their own; 0 adds none.

    Source: Wan2.1 wan/modules/model.py, MLPProj.
    """

    def __init__(self, image_dim: int, dim: int, num_positions: int = 0) -> None:
        super().__init__()
        self.proj = [
            nn.LayerNorm(image_dim, eps=EPS),
            nn.Linear(image_dim, image_dim),
            nn.Identity(),  # the GELU's place: the names count it
            nn.Linear(image_dim, dim),
            nn.LayerNorm(dim, eps=EPS),
        ]
        if num_positions:
            self.emb_pos = mx.zeros((1, num_positions, image_dim))

    def __call__(self, image_tokens: mx.array) -> mx.array:
        """Project image tokens.

        Args:
            image_tokens: [K, image_dim], any floating type; K is any number where there are no positions.

        Returns:
            [K, dim] in the weights' type.

        Raises:
            ValueError: the tokens have another width, or there is not one for each position.
        """
        norm_in, widen, _, narrow, norm_out = self.proj
        self._check(image_tokens, norm_in.weight.size)
        # float32 up to the first product, which takes what it needs: features of CLIP reach far.
        x = image_tokens.astype(mx.float32)
        if "emb_pos" in self:
            x = x + self.emb_pos[0]
        hidden = gelu_erf(project(widen, norm_in(x)))
        return norm_out(project(narrow, hidden))

    def _check(self, image_tokens: mx.array, image_dim: int) -> None:
        if image_tokens.ndim != 2 or image_tokens.shape[1] != image_dim:
            raise ValueError(
                f"image tokens of shape {image_tokens.shape}, the transformer takes [K, {image_dim}]"
            )
        if "emb_pos" in self and image_tokens.shape[0] != self.emb_pos.shape[1]:
            raise ValueError(
                f"{image_tokens.shape[0]} image tokens, the transformer has positions for "
                f"{self.emb_pos.shape[1]}"
            )
