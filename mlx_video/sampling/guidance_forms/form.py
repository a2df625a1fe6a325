"""What a form of guidance is: settings that wrap any guidance in another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import Branch, Guidance, Kept, PromptName


class GuidanceForm(Protocol):
    """A form as the user asks for it.

    Attributes:
        rank: forms of lower rank lie within those of higher.
        setting: its name and numbers, as text, for the run's record.
    """

    @property
    def rank(self) -> int:
        """Its place among forms that are given together."""

    @property
    def setting(self) -> str:
        """Its name and numbers."""

    def wrap(self, inner: Guidance, count: int) -> Guidance:
        """The guidance in this form.

        Args:
            inner: what it is a form of; with the prompt's branch first, and the negative one second if any.
            count: velocities of the run.

        Raises:
            RequestError: it does not work for this run.
        """

    def describe(self, count: int) -> str:
        """What to tell the user of a run of so many velocities; "" for nothing."""


@dataclass(frozen=True)
class Wrapped:
    """Base of guidance within a form: as the inner one, but for what is overridden.

    Attributes:
        inner: what it is a form of.
    """

    inner: Guidance

    @property
    def all_branches(self) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        return self.inner.all_branches

    @property
    def prompts(self) -> frozenset[PromptName]:
        """See `guidance.Guidance`."""
        return self.inner.prompts

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        return self.inner.branches(step)

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """See `guidance.Guidance`."""
        return self.inner.combine(step, latents, velocities, kept)


def wrap_guidance(inner: Guidance, forms: Iterable[GuidanceForm], count: int) -> Guidance:
    """Guidance in all of some forms.

    Args:
        inner: the official one.
        forms: in any order.
        count: velocities of the run.
    """
    for form in sorted(forms, key=lambda form: form.rank):
        inner = form.wrap(inner, count)
    return inner


def dot(a: mx.array, b: mx.array) -> mx.array:
    """Sum of products of two arrays, one of float32, summed frame by frame [C, T, H, W] and then over frames.

    float32 alone is there on a GPU; partial sums keep its rounding below 1e-5.
    """
    return mx.sum(mx.sum(a * b, axis=(0, 2, 3))) if a.ndim == 4 else mx.sum(a * b)
