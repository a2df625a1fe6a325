"""A low-rank product that runs beside a linear layer, for adapters of layers that stay quantized."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class UnmergedAdapter(nn.Module):
    """Adds x · downᵀ · scale · upᵀ to what a layer makes of x.

    It is an attribute `unmerged` of the layer, which stays what it was; `models.matmul.project` runs both.

    Args:
        down: [R, in], any floating type; kept as it is.
        up: [out, R], likewise.
        scale: [R], float32. Apart from the factors, so that these lose nothing to it.

    Source: arXiv 2106.09685.
    """

    def __init__(self, down: mx.array, up: mx.array, scale: mx.array) -> None:
        super().__init__()
        self.down = down
        self.up = up
        self.scale = scale

    def __call__(self, x: mx.array, y: mx.array) -> mx.array:
        """Add the product.

        Args:
            x: what the layer takes, [L, in].
            y: what it gave, [L, out], the type of `x`.

        Returns:
            [L, out] in that type.
        """
        hidden = (x @ self.down.astype(x.dtype).T) * self.scale
        return mx.addmm(y, hidden.astype(x.dtype), self.up.astype(x.dtype).T)
