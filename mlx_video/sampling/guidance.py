"""Guidance: which predictions a step needs, and how they become one velocity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import mlx.core as mx

from mlx_video.models.block_context import Attention, PromptTokens, Step

Velocity = Callable[[mx.array, Step], mx.array]
"""Latents [C, T, H, W] float32, and the step → velocity of the same shape."""

PromptName = Literal["positive", "negative"]

Kept = dict[str, mx.array]

MakeAttention = Callable[[Mapping[PromptName, PromptTokens]], Attention]
"""All prompts of the guidance, as one transformer sees them → how tokens attend."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One prediction of a step.

    Attributes:
        name: the same in every step, for what is kept from one step to the next.
        prompt: what it is made under.
        skip_layers: indices of blocks that are left out.
        make_attention: gives the way to attend, for guidance that works there; None for the usual one.
        sees: kinds of the given videos and pictures that it is made under; None for all.
    """

    name: str
    prompt: PromptName
    skip_layers: frozenset[int] = field(default_factory=frozenset)
    make_attention: MakeAttention | None = None
    sees: frozenset[str] | None = None


POSITIVE = Branch("positive", "positive")
NEGATIVE = Branch("negative", "negative")


class Guidance(Protocol):
    """A way to let the prompt count more than the network alone would.

    Attributes:
        all_branches: what any step may ask for; memory is planned by it.
        prompts: what any step may read; these are encoded.
    """

    @property
    def all_branches(self) -> tuple[Branch, ...]:
        """Every branch, in the order of a step that needs all."""

    @property
    def prompts(self) -> frozenset[PromptName]:
        """Names of the prompts."""

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """Give the branches of one step, in the order in which they are made; none for no forward at all."""

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """Make the velocity of a step.

        Args:
            step: the step.
            latents: [C, T, H, W], float32, that the predictions were made for.
            velocities: [C, T, H, W], one for each branch.
            kept: arrays from one step to the next, empty at first; part of the run's state.

        Returns:
            [C, T, H, W], float32.
        """


@dataclass(frozen=True, slots=True)
class ClassifierFreeGuidance:
    """Guidance of the official code: what the prompt adds to the negative prompt, amplified.

    Attributes:
        scale: 1 follows the prompt alone, and needs no negative prediction; 0 the negative prompt alone.

    Source: Wan2.1 wan/text2video.py, WanT2V.generate; arXiv:2207.12598.
    """

    scale: float

    @property
    def all_branches(self) -> tuple[Branch, ...]:
        """The prompt, and the negative prompt unless the scale is 1."""
        return (POSITIVE,) if self.scale == 1.0 else (POSITIVE, NEGATIVE)

    @property
    def prompts(self) -> frozenset[PromptName]:
        """The prompts of the branches."""
        return frozenset(branch.prompt for branch in self.all_branches)

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """Branches of any step: all of them."""
        return self.all_branches

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """Give negative + scale · (positive - negative)."""
        # float32: the difference of two close predictions is multiplied.
        positive, *others = (velocity.astype(mx.float32) for velocity in velocities)
        if not others:
            return positive
        (negative,) = others
        return negative + self.scale * (positive - negative)
