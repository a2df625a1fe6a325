"""Adaptive projected guidance: what lies along the prompt's own prediction is held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import Guidance, Kept
from mlx_video.sampling.guidance_forms.form import Wrapped, dot

_KEPT = "apg_average"


@dataclass(frozen=True, slots=True)
class ProjectedGuidanceForm:
    """The form as the user asks for it.

    Attributes:
        eta: share that is kept of what lies along the prompt's prediction; 1 keeps all.
        momentum: of the difference from step to step; negative pushes away from earlier ones, 0 for none.
        norm_limit: of the difference; 0 for none.

    Source: deepbeepmeep/Wan2GP models/wan/any2video.py, adaptive_projected_guidance; arXiv:2410.02416.
    """

    eta: float = 0.0
    momentum: float = -0.75
    norm_limit: float = 55.0
    rank: int = 20

    @property
    def setting(self) -> str:
        """See `form.GuidanceForm`."""
        return f"apg eta {self.eta}, momentum {self.momentum}, norm {self.norm_limit}"

    def wrap(self, inner: Guidance, count: int) -> Guidance:
        """See `form.GuidanceForm`."""
        return ProjectedGuidance(inner, self) if len(inner.all_branches) > 1 else inner

    def describe(self, count: int) -> str:
        """See `form.GuidanceForm`."""
        return ""


@dataclass(frozen=True)
class ProjectedGuidance(Wrapped):
    """Guidance by the projected difference.

    The inner guidance, negative + scale · (positive - negative), gets a negative prediction that lies this
    difference away from the positive one.

    Attributes:
        form: the numbers.
    """

    form: ProjectedGuidanceForm = field(default_factory=ProjectedGuidanceForm)

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """See `guidance.Guidance`."""
        if len(velocities) > 1:
            positive, negative, *others = (velocity.astype(mx.float32) for velocity in velocities)
            velocities = [positive, positive - self._project(positive - negative, positive, kept), *others]
        return self.inner.combine(step, latents, velocities, kept)

    def _project(self, difference: mx.array, positive: mx.array, kept: Kept) -> mx.array:
        if self.form.momentum:
            difference = difference + self.form.momentum * kept.get(_KEPT, mx.zeros_like(difference))
            kept[_KEPT] = difference
        if self.form.norm_limit > 0:
            norm = mx.sqrt(dot(difference, difference))
            difference = difference * mx.minimum(1.0, self.form.norm_limit / norm)
        along = dot(difference, positive) / dot(positive, positive) * positive
        return difference - (1 - self.form.eta) * along
