"""What the transformer is told besides the noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import mlx.core as mx

from mlx_video.conditioning.latent_frames import VIDEO_ALONE, LatentFrames
from mlx_video.models.block_context import Pass
from mlx_video.models.video_transformer import VideoTransformer

AddOn = Callable[[VideoTransformer, Pass], Pass]
"""A loaded transformer and a pass of it → the pass with what an input adds to it."""


@runtime_checkable
class FrameAddOn(Protocol):
    """An add-on that holds something of every frame; those that do not serve any frames as they are."""

    def __call__(self, transformer: VideoTransformer, one: Pass) -> Pass:
        """See :data:`AddOn`."""

    def take_frames(self, frames: Sequence[int]) -> AddOn:
        """The add-on of some frames; see :meth:`Conditioning.take_frames`."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Everything that stays the same over all steps of one run.

    Attributes:
        context: text features of the prompt, [n, text_dim].
        negative_context: those of the negative prompt; None when guidance needs no negative pass.
        concat_latents: channels put behind the noisy latents, [C, T, H, W]; None for text-to-video.
        image_tokens: CLIP features of the images, [K, image_dim]; None for a transformer that reads none.
        first_frames: latents that the first latent frames keep, [C, c, H, W]; None where all start as noise.
        remembers_first_frames: whether keys and values of the first frames are computed once for all steps.
        start_latents: of the video that is begun with, [C, T, H, W], in place of pure noise; None for none.
        latents_before: that the decoder sees before the result, and which are not shown, [C, n, H, W]; None
            for none.
        frames: which latent frames are sampled, and which are the result.
        add_ons: put hooks, modulation or attention of add-on networks into the passes.
    """

    context: mx.array
    negative_context: mx.array | None = None
    concat_latents: mx.array | None = None
    image_tokens: mx.array | None = None
    first_frames: mx.array | None = None
    remembers_first_frames: bool = False
    start_latents: mx.array | None = None
    latents_before: mx.array | None = None
    frames: LatentFrames = VIDEO_ALONE
    add_ons: tuple[AddOn, ...] = ()

    @property
    def num_first_frames(self) -> int:
        """How many latent frames are given in place of noise."""
        return 0 if self.first_frames is None else self.first_frames.shape[1]

    @property
    def has_given_frames(self) -> bool:
        """Whether something tells what single frames look like."""
        return self.first_frames is not None or self.concat_latents is not None

    def take_frames(self, frames: Sequence[int]) -> Conditioning:
        """What a transformer is told of some frames.

        Args:
            frames: numbers among the sampled ones, in the order in which it sees them.

        Returns:
            The conditioning without `first_frames` and `start_latents`, which are no matter of its own.
        """
        concat = self.concat_latents
        return replace(
            self,
            concat_latents=None if concat is None else concat[:, mx.array(list(frames))],
            first_frames=None,
            remembers_first_frames=False,
            start_latents=None,
            add_ons=tuple(
                add_on.take_frames(frames) if isinstance(add_on, FrameAddOn) else add_on
                for add_on in self.add_ons
            ),
        )
