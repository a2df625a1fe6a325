"""Skip-layer guidance: away from what the network predicts without some of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import Branch, Guidance, Kept, PromptName
from mlx_video.sampling.guidance_forms.form import Wrapped

SkipLayerMode = Literal["original", "uncond"]


@dataclass(frozen=True, slots=True)
class SkipLayers:
    """The form as the user asks for it.

    Attributes:
        layers: indices of the blocks that are left out.
        scale: of the difference, in mode "original".
        start, end: fractions of the run, 0 to 1, between which it acts; the end is left out.
        mode: "original" makes a third forward, "uncond" leaves the blocks out of the negative one.
        prompt: of the third forward.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/wan_generate_video.py, --slg_layers.
    """

    layers: frozenset[int]
    scale: float = 3.0
    start: float = 0.0
    end: float = 0.3
    mode: SkipLayerMode = "original"
    prompt: PromptName = "negative"
    rank: int = 30

    @property
    def setting(self) -> str:
        """See `form.GuidanceForm`."""
        layers = ",".join(map(str, sorted(self.layers)))
        return f"slg {layers}, scale {self.scale}, {self.start} to {self.end}, {self.mode}, {self.prompt}"

    def wrap(self, inner: Guidance, count: int) -> Guidance:
        """See `form.GuidanceForm`."""
        return SkipLayerGuidance(inner, self, count) if len(inner.all_branches) > 1 else inner

    def describe(self, count: int) -> str:
        """See `form.GuidanceForm`."""
        first, end = self.bounds(count)
        third = ", which make a third forward" if self.mode == "original" else ""
        return f"Skip-layer guidance acts in steps {first + 1} to {end} of {count}{third}."

    def bounds(self, count: int) -> tuple[int, int]:
        """The first step in which it acts, counted from 0, and the one behind the last."""
        return int(self.start * count), int(self.end * count)


@dataclass(frozen=True)
class SkipLayerGuidance(Wrapped):
    """Guidance with a prediction that lacks some blocks.

    Attributes:
        form: the numbers.
        count: velocities of the run.
    """

    form: SkipLayers = field(default_factory=lambda: SkipLayers(frozenset()))
    count: int = 1

    @property
    def shallow(self) -> Branch:
        """The branch without the blocks."""
        prompt = "negative" if self.form.mode == "uncond" else self.form.prompt
        return Branch("skipped layers", prompt, self.form.layers)

    @property
    def all_branches(self) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        return (*self.inner.all_branches, self.shallow)

    @property
    def prompts(self) -> frozenset[PromptName]:
        """See `guidance.Guidance`."""
        return self.inner.prompts | {self.shallow.prompt}

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        branches = self.inner.branches(step)
        if not self._acts(step):
            return branches
        positive, _, *others = branches
        kept = branches[1:2] if self.form.mode == "original" else ()
        return (positive, *kept, self.shallow, *others)

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """See `guidance.Guidance`."""
        if not self._acts(step) or self.form.mode == "uncond":
            return self.inner.combine(step, latents, velocities, kept)
        positive, negative, shallow, *others = velocities
        guided = self.inner.combine(step, latents, [positive, negative, *others], kept)
        return guided + self.form.scale * (positive.astype(mx.float32) - shallow.astype(mx.float32))

    def _acts(self, step: Step) -> bool:
        first, end = self.form.bounds(self.count)
        return first <= step.index < end and len(self.inner.branches(step)) > 1
