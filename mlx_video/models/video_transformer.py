"""What a run asks of a transformer, whatever it is made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import CrossAttentionCache, Pass, PromptTokens, Step, TimeFeatures
from mlx_video.models.forward import BlockSource
from mlx_video.models.token_layout import TokenLayout


@dataclass(frozen=True, slots=True)
class Part:
    """Frames that are predicted as if they were a whole video.

    Attributes:
        latents: [C, T, H, W], float32.
        passes: what to predict of them.
        concat_latents: channels put behind those of `latents`, [C2, T, H, W].
        layout: of the tokens; None for those of the latents alone, all at the step's timestep.
    """

    latents: mx.array
    passes: Sequence[Pass]
    concat_latents: mx.array | None = None
    layout: TokenLayout | None = None


class VideoTransformer(nn.Module):
    """A network of blocks that predicts the velocity of noisy latents.

    Parameters carry the names of a converted folder's tensors.

    Attributes:
        config: its sizes.
        blocks: take tokens [L, dim] and a `BlockContext`; an empty list while a block source has them.
    """

    config: TransformerConfig
    blocks: list[nn.Module]

    def forget_layouts(self) -> None:
        """Let go what was computed for the token layouts seen so far; it is computed again when needed."""

    @abstractmethod
    def project_text(
        self, context: mx.array, image_tokens: mx.array | CrossAttentionCache | None = None
    ) -> PromptTokens:
        """Bring text features and image tokens to the transformer's width; do it once per prompt and run.

        Args:
            context: [n, text_dim], any floating type; n is at most `text_len`.
            image_tokens: [K, image_dim] for a transformer with the image branch, and only for such a one. Or
                the `image` of another prompt of the run, whose keys and values then serve both.

        Raises:
            ValueError: the text is longer than the model's, or the image tokens do not fit the model.
        """

    @abstractmethod
    def embed_time(self, timestep: float, layout: TokenLayout) -> TimeFeatures:
        """Features of the timesteps in use; equal ones are computed once.

        Args:
            timestep: of the step, 0 to 1000.
            layout: of the tokens; may state others for some of them.
        """

    def predict(
        self,
        latents: mx.array,
        step: Step,
        passes: Sequence[Pass],
        *,
        concat_latents: mx.array | None = None,
        layout: TokenLayout | None = None,
        block_source: BlockSource | None = None,
    ) -> list[mx.array]:
        """Predict the velocity in each of several passes, such as under the prompt and the negative prompt.

        Each velocity is, bit for bit, that of a call of its own. A source that reads blocks from a disk reads
        them once for all passes; blocks in memory serve one pass after the other.

        Args:
            latents: [C, T, H, W], float32.
            step: the step to take; its timestep is that of all tokens of which `layout` says nothing else.
            passes: what to predict.
            concat_latents: channels put behind those of `latents`, [C2, T, H, W].
            layout: of the video's tokens; None for those of the latents alone, all at the step's timestep.
            block_source: None for the blocks of this module.

        Returns:
            [out_dim, T, H, W], float32, for each pass; evaluated but for the last where one pass is made
            after the other.

        Raises:
            ValueError: channels or sizes do not fit the model, or the layout does not fit the latents.
        """
        part = Part(latents, passes, concat_latents, layout)
        return self.predict_parts([part], step, block_source=block_source)[0]

    @abstractmethod
    def predict_parts(
        self, parts: Sequence[Part], step: Step, *, block_source: BlockSource | None = None
    ) -> list[list[mx.array]]:
        """Predict several parts of a video, each as :meth:`predict` would by itself, bit for bit.

        A source that reads blocks from a disk reads them once for all parts.

        Args:
            parts: of the video.
            step: the step to take.
            block_source: None for the blocks of this module.

        Returns:
            The velocities of each part.
        """
