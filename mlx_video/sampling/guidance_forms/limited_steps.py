"""Guidance in some steps alone; in the others the prompt's prediction is taken as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import mlx.core as mx

from mlx_video.models.block_context import Step
from mlx_video.sampling.guidance import Branch, Guidance, Kept
from mlx_video.sampling.guidance_forms.form import Wrapped

RANK = 40


def _early(count: int, applied: int) -> list[bool]:
    return [index >= count - applied for index in range(count)]


def _late(count: int, applied: int) -> list[bool]:
    return [index < applied for index in range(count)]


def _early_late(count: int, applied: int) -> list[bool]:
    first = (count - applied) // 2
    return [first <= index < first + applied for index in range(count)]


def _middle(count: int, applied: int) -> list[bool]:
    first = applied // 2
    return [not first <= index < first + count - applied for index in range(count)]


_SKIPPED: Mapping[str, Callable[[int, int], list[bool]]] = MappingProxyType(
    {"early": _early, "late": _late, "early_late": _early_late, "middle": _middle}
)
SKIP_MODES = (*_SKIPPED, "alternate")


def applied_steps(mode: str, ratio: float, count: int) -> list[bool]:
    """Which steps have guidance.

    Args:
        mode: where it is left out.
        ratio: share of the steps that have it, 0 to 1.
        count: of the run.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/wan_generate_video.py, --cfg_skip_mode.
    """
    if mode != "alternate":
        return _SKIPPED[mode](count, int(count * ratio))
    due, applied = 0.0, []
    for _ in range(count):
        due += ratio
        applied.append(due >= 1)
        due -= applied[-1]
    return applied


@dataclass(frozen=True, slots=True)
class SkippedGuidance:
    """Guidance left out in a pattern.

    Attributes:
        mode: one of SKIP_MODES.
        ratio: share of the steps that have guidance.
    """

    mode: str
    ratio: float
    rank: int = RANK

    @property
    def setting(self) -> str:
        """See `form.GuidanceForm`."""
        return f"cfg-skip {self.mode} {self.ratio}"

    def wrap(self, inner: Guidance, count: int) -> Guidance:
        """See `form.GuidanceForm`."""
        return _limit(inner, applied_steps(self.mode, self.ratio, count))

    def describe(self, count: int) -> str:
        """See `form.GuidanceForm`."""
        return _describe(applied_steps(self.mode, self.ratio, count))


@dataclass(frozen=True, slots=True)
class GuidanceRange:
    """Guidance in one part of the run.

    Attributes:
        start, end: fractions of the steps, 0 to 1; the end is left out.
    """

    start: float = 0.0
    end: float = 1.0
    rank: int = RANK

    @property
    def setting(self) -> str:
        """See `form.GuidanceForm`."""
        return f"cfg from {self.start} to {self.end}"

    def wrap(self, inner: Guidance, count: int) -> Guidance:
        """See `form.GuidanceForm`."""
        return _limit(inner, self._applied(count))

    def describe(self, count: int) -> str:
        """See `form.GuidanceForm`."""
        return _describe(self._applied(count))

    def _applied(self, count: int) -> list[bool]:
        return [self.start <= index / count < self.end for index in range(count)]


def _limit(inner: Guidance, applied: list[bool]) -> Guidance:
    return LimitedGuidance(inner, tuple(applied)) if len(inner.all_branches) > 1 else inner


def _describe(applied: list[bool]) -> str:
    letters = "".join("A" if one else "S" for one in applied)
    saved = applied.count(False) / (2 * len(applied))
    return f"Guidance: {letters} (A applies it, S skips it); {saved:.0%} fewer forwards."


@dataclass(frozen=True)
class LimitedGuidance(Wrapped):
    """Guidance in some steps.

    Attributes:
        applied: whether each step has it.
    """

    applied: tuple[bool, ...] = ()

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        branches = self.inner.branches(step)
        return branches if self.applied[step.index] else branches[:1]

    def combine(self, step: Step, latents: mx.array, velocities: Sequence[mx.array], kept: Kept) -> mx.array:
        """See `guidance.Guidance`."""
        if self.applied[step.index]:
            return self.inner.combine(step, latents, velocities, kept)
        return velocities[0].astype(mx.float32)
