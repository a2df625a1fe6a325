"""A transformer that predicts one block of frames behind the keys and values of finished ones."""

from __future__ import annotations

import mlx.core as mx

from mlx_video.models.block_context import Pass, PromptTokens, Step
from mlx_video.models.context_cache import BehindContext, ContextCache, KeepingAttention
from mlx_video.models.forward import BlockSource
from mlx_video.models.token_layout import TokenLayout, video_layout
from mlx_video.models.transformer import token_grid
from mlx_video.models.video_transformer import VideoTransformer

CLEAN = Step(index=0, count=1, timestep=0.0, sigma=0.0, next_sigma=0.0)
"""The step at which finished frames are seen."""


class BlockVelocity:
    """The velocity function of one transformer for the frames of a block, whatever the block's number.

    Positions in time begin at 0 with the context, so that they never grow with the video.

    Args:
        transformer: loaded.
        prompt: of the video.
        frames: latent frames of a block, in groups of which context frames see each other.
        blocks: where the transformer's blocks are read from; None where all are in memory.

    Source: krea-ai/realtime-video release_server.py, GenerationSession.recompute_kv_cache and
    generate_block_internal; wan/modules/causal_model.py, CausalWanSelfAttention.
    """

    def __init__(
        self,
        transformer: VideoTransformer,
        prompt: PromptTokens,
        frames: int,
        blocks: BlockSource | None = None,
    ) -> None:
        self._transformer = transformer
        self._prompt = prompt
        self._frames = frames
        self._blocks = blocks
        self._cache = ContextCache()
        self._seen = 0

    def see(self, context: mx.array | None) -> None:
        """Compute keys and values of the frames that stand before the next block, in place of those of now.

        Args:
            context: [C, T, H, W], finished; None for a block that begins the video.
        """
        self._cache.clear()
        self._seen = 0
        if context is None:
            return
        layout = self._layout(context)
        rows, columns = (len(axis) for axis in layout.segments[0].axes[1:])
        keeping = KeepingAttention(self._cache, self._frames * rows * columns)
        self._predict(context, CLEAN, Pass(self._prompt, attention=keeping), layout)
        mx.eval(self._cache.arrays())  # the velocity is not: nobody wants it
        self._seen = len(layout.segments[0].times)

    def __call__(self, latents: mx.array, step: Step) -> mx.array:
        """Predict the velocity [C, T, H, W] of a block's latents [C, T, H, W]."""
        one = Pass(self._prompt, attention=BehindContext(self._cache))
        return self._predict(latents, step, one, self._layout(latents).shift_times(self._seen))

    def _layout(self, latents: mx.array) -> TokenLayout:
        _, frames, rows, columns = latents.shape
        return video_layout(token_grid((frames, rows, columns), self._transformer.config.patch_size))

    def _predict(self, latents: mx.array, step: Step, one: Pass, layout: TokenLayout) -> mx.array:
        (velocity,) = self._transformer.predict(
            latents, step, [one], layout=layout, block_source=self._blocks
        )
        return velocity
