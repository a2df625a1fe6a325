"""What the transformer is told besides the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.conditioning.latent_frames import VIDEO_ALONE, LatentFrames
from mlx_video.models.block_context import Pass
from mlx_video.models.video_transformer import VideoTransformer

AddOn = Callable[[VideoTransformer, Pass], Pass]
"""A loaded transformer and a pass of it → the pass with what an input adds to it."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Everything that stays the same over all steps of one run.

    Attributes:
        context: text features of the prompt, [n, text_dim].
        negative_context: those of the negative prompt; None when guidance needs no negative pass.
        concat_latents: channels put behind the noisy latents, [C, T, H, W]; None for text-to-video.
        image_tokens: CLIP features of the images, [K, image_dim]; None for a transformer that reads none.
        first_frame: latents that the first latent frame keeps, [C, 1, H, W]; None where it starts as noise.
        start_latents: of the video that is begun with, [C, T, H, W], in place of pure noise; None for none.
        frames: which latent frames are sampled, and which are the result.
        add_ons: put hooks, modulation or attention of add-on networks into the passes.
    """

    context: mx.array
    negative_context: mx.array | None = None
    concat_latents: mx.array | None = None
    image_tokens: mx.array | None = None
    first_frame: mx.array | None = None
    start_latents: mx.array | None = None
    frames: LatentFrames = VIDEO_ALONE
    add_ons: tuple[AddOn, ...] = ()
