"""CFG-Zero*: the negative prediction scaled to fit, and no movement in the first steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import Branch, Guidance, Kept
from mlx_video.sampling.guidance_forms.form import Wrapped, dot

_LEAST = 1e-8


@dataclass(frozen=True, slots=True)
class ZeroStar:
    """The form as the user asks for it.

    Attributes:
        zero_steps: how many first steps leave the latents where they are, without a forward.

    Source: WeichenFan/CFG-Zero-star models/wan; arXiv:2503.18886.
    """

    zero_steps: int = 1
    rank: int = 50

    @property
    def setting(self) -> str:
        """See `form.GuidanceForm`."""
        return f"cfg-zero-star {self.zero_steps}"

    def wrap(self, inner: Guidance, count: int) -> Guidance:
        """See `form.GuidanceForm`."""
        return ZeroStarGuidance(inner, self.zero_steps) if len(inner.all_branches) > 1 else inner

    def describe(self, count: int) -> str:
        """See `form.GuidanceForm`."""
        zero = min(self.zero_steps, count)
        return f"CFG-Zero*: {zero} of {count} steps make no forward." if zero else ""


@dataclass(frozen=True)
class ZeroStarGuidance(Wrapped):
    """Guidance whose negative prediction is scaled.

    Attributes:
        zero_steps: how many first steps have velocity 0.
    """

    zero_steps: int = 1

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        return () if step.index < self.zero_steps else self.inner.branches(step)

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """See `guidance.Guidance`."""
        if step.index < self.zero_steps:
            return mx.zeros_like(latents)
        if len(velocities) > 1:
            positive, negative, *others = (velocity.astype(mx.float32) for velocity in velocities)
            scale = dot(positive, negative) / (dot(negative, negative) + _LEAST)
            velocities = [positive, scale * negative, *others]
        return self.inner.combine(step, latents, velocities, kept)
