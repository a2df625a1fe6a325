"""Guidance of a model that sees given videos and pictures: each kind of source may count for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import NEGATIVE, POSITIVE, Branch, Kept, PromptName

VIDEO, PICTURES = "video", "pictures"
"""Kinds of sources."""
VIDEO_ALONE = Branch("negative, video alone", "negative", sees=frozenset({VIDEO}))
NO_SOURCE = Branch("negative, no source", "negative", sees=frozenset())


@dataclass(frozen=True, slots=True)
class Projection:
    """How much of a difference counts.

    Attributes:
        eta: share that is kept of what lies along the prediction under more.
        norm_limit: of the difference, in each latent frame.
    """

    eta: float = 0.5
    norm_limit: float = 50.0

    def shorten(self, difference: mx.array, towards: mx.array) -> mx.array:
        """The part of a difference that counts.

        Args:
            difference: of two predictions of the clean latents, [C, T, H, W], float32.
            towards: the one of both that was made under more.

        Source: bytedance/Bernini bernini/models/wan_diffusion.py, _normalize_diff; arXiv:2410.02416.
        """
        norm = mx.sqrt(_dot(difference, difference))
        difference = difference * mx.minimum(1.0, self.norm_limit / mx.maximum(norm, 1e-12))
        along = _dot(difference, towards) / mx.maximum(_dot(towards, towards), 1e-24) * towards
        return difference - (1 - self.eta) * along


@dataclass(frozen=True, slots=True)
class ChainedGuidance:
    """From a prediction under little to one under all: each difference on the way is amplified by itself.

    Attributes:
        all_branches: from the prompt with all sources down to the least.
        scales: of the difference of each branch but the last to the next.
        projection: of these differences, between predictions of the clean latents; None for none.

    Source: bytedance/Bernini bernini/models/wan_diffusion.py, GEN_Wanx22.sample.
    """

    all_branches: tuple[Branch, ...]
    scales: tuple[float, ...]
    projection: Projection | None = None

    @property
    def prompts(self) -> frozenset[PromptName]:
        """The prompts of the branches."""
        return frozenset(branch.prompt for branch in self.all_branches)

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """Branches of any step: all of them."""
        return self.all_branches

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """See `guidance.Guidance`."""
        # float32: differences of close predictions are multiplied.
        found = [velocity.astype(mx.float32) for velocity in velocities]
        if self.projection is None:
            return self._climb(found)
        # Those of the clean latents.
        clean = self._climb([latents - step.sigma * velocity for velocity in found])
        return (latents - clean) / step.sigma

    def _climb(self, predictions: Sequence[mx.array]) -> mx.array:
        result = predictions[-1]
        for index, scale in enumerate(self.scales):
            difference = predictions[index] - predictions[index + 1]
            if self.projection:
                difference = self.projection.shorten(difference, predictions[index])
            result = result + scale * difference
        return result


def chain_sources(
    kinds: frozenset[str], text: float, pictures: float, video: float, *, is_picture: bool
) -> ChainedGuidance:
    """The authors' guidance for what is given.

    Args:
        kinds: of the sources.
        text, pictures, video: scales.
        is_picture: whether a picture is made, and no video.

    Source: bytedance/Bernini gradio_demo.py, GUIDANCE_MODE_BY_TASK.
    """
    if kinds == {VIDEO, PICTURES}:
        return ChainedGuidance((POSITIVE, NEGATIVE, VIDEO_ALONE, NO_SOURCE), (text, pictures, video))
    if kinds == {PICTURES}:
        return ChainedGuidance((POSITIVE, NEGATIVE, NO_SOURCE), (text, pictures), Projection())
    edits_picture = is_picture and kinds == {VIDEO}
    return ChainedGuidance((POSITIVE, NEGATIVE), (text,), None if edits_picture else Projection())


def _dot(a: mx.array, b: mx.array) -> mx.array:
    """Sum of products in each latent frame, [1, T, 1, 1]."""
    return mx.sum(a * b, axis=(0, 2, 3), keepdims=True)
