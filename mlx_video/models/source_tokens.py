"""Given videos and pictures as further tokens of the whole sequence, told apart by numbers of their own."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_video.models.block_context import BlockHook
from mlx_video.models.token_layout import Segment, TokenLayout, video_segment
from mlx_video.models.transformer import WanTransformer, token_grid


class SourceHook(BlockHook):
    """Tokens of sources before those of the video; they share its timestep, and are no part of the result.

    Each source lies at positions from 0 on, as the video does; its number alone tells it from the others.

    Args:
        transformer: embeds them as it does the video.
        sources: latents of each, [C, T, H, W], of sizes of their own.
        numbers: of each; the video that is made has 0.

    Source: bytedance/Bernini bernini/models/wan_diffusion.py, GEN_Wanx22.sample.
    """

    def __init__(
        self, transformer: WanTransformer, sources: Sequence[mx.array], numbers: Sequence[float]
    ) -> None:
        self._tokens = [transformer.embed_patches(latents) for latents in sources]
        self._segments: list[Segment] = []
        for latents, number in zip(sources, numbers, strict=True):
            _, frames, rows, columns = latents.shape
            grid = token_grid((frames, rows, columns), transformer.config.patch_size)
            self._segments.append(video_segment(grid, is_output=False, source=number))

    def extend(self, tokens: mx.array, layout: TokenLayout) -> tuple[mx.array, TokenLayout]:
        """See :meth:`BlockHook.extend`."""
        longer = TokenLayout((*self._segments, *layout.segments))
        return mx.concatenate([*self._tokens, tokens]), longer
