"""One forward of a transformer, as the benchmarks time it."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.models.block_context import Pass, PromptTokens, Step
from mlx_video.models.forward import BlockSource
from mlx_video.models.transformer import WanTransformer

STEP = Step(index=0, count=1, timestep=937.0, sigma=0.937, next_sigma=0.0)


def predict_velocity(
    network: WanTransformer, latents: mx.array, text: PromptTokens, blocks: BlockSource | None = None
) -> mx.array:
    """The velocity under one prompt, not evaluated."""
    (velocity,) = network.predict(latents, STEP, [Pass(text)], block_source=blocks)
    return velocity
