"""Normalized attention guidance: the negative prompt acts inside the attention to the text, at no forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import mlx.core as mx

from mlx_video.models.block_context import (
    Attention,
    AttentionSite,
    PromptTokens,
    Step,
    TextAttentionLayer,
    attend_plainly,
)
from mlx_video.models.token_sharing import ALL_TOKENS, TokenSharing
from mlx_video.sampling.guidance import Branch, Guidance, PromptName
from mlx_video.sampling.guidance_forms.form import Wrapped

_RATIO_OF_NOTHING = 10.0
_LEAST = 1e-7


@dataclass(frozen=True, slots=True)
class NormalizedAttention:
    """The form as the user asks for it.

    Attributes:
        scale: 1 follows the prompt alone.
        limit: of the size of a token's result, by the size that it has under the prompt.
        share: of the result; the rest is what the prompt alone gives.

    Source: ChenDarYen/Normalized-Attention-Guidance; deepbeepmeep/Wan2GP models/wan/modules/model.py.
    arXiv:2505.21179.
    """

    scale: float
    limit: float = 3.5
    share: float = 0.5
    rank: int = 60

    @property
    def setting(self) -> str:
        """See `form.GuidanceForm`."""
        return f"nag {self.scale}, limit {self.limit}, share {self.share}"

    def wrap(self, inner: Guidance, count: int) -> Guidance:
        """See `form.GuidanceForm`."""
        return NormalizedAttentionGuidance(inner, self) if self.scale not in (0.0, 1.0) else inner

    def describe(self, count: int) -> str:
        """See `form.GuidanceForm`."""
        return ""

    def make_attention(self, prompts: Mapping[PromptName, PromptTokens]) -> Attention:
        """How tokens attend: to the text of both prompts, to all else as usual."""
        negative = prompts["negative"].text

        def attention(queries: mx.array, keys: mx.array, values: mx.array, site: AttentionSite) -> mx.array:
            mixed = attend_plainly(queries, keys, values, site)
            if site.kind != "text":
                return mixed
            layer = cast(TextAttentionLayer, site.layer)
            other = negative.keys_values(site.context.index, layer.keys_values)
            opposed = attend_plainly(queries, other.keys, other.values, site)
            return self.push_apart(mixed, opposed, site.context.sharing)

        return attention

    def push_apart(
        self, positive: mx.array, negative: mx.array, sharing: TokenSharing = ALL_TOKENS
    ) -> mx.array:
        """Move results away from those of the negative prompt, no farther than the limit.

        Args:
            positive, negative: [1, N, L, D], mixed values under both prompts.
            sharing: which heads these are.

        Returns:
            The same shape and type.
        """
        near, far = positive.astype(mx.float32), negative.astype(mx.float32)
        pushed = self.scale * near - (self.scale - 1) * far
        size, pushed_size = sharing.add_heads(mx.stack([_token_size(near), _token_size(pushed)]))
        ratio = pushed_size / size
        ratio = mx.where(mx.isnan(ratio), _RATIO_OF_NOTHING, ratio)
        shrunk = pushed * (self.limit * size / (pushed_size + _LEAST))
        pushed = mx.where(ratio > self.limit, shrunk, pushed)
        return (self.share * pushed + (1 - self.share) * near).astype(positive.dtype)


def _token_size(mixed: mx.array) -> mx.array:
    """Sum of absolute values of each token over its heads and channels, [1, 1, L, 1]."""
    return mx.sum(mx.abs(mixed), axis=(1, 3), keepdims=True)


@dataclass(frozen=True)
class NormalizedAttentionGuidance(Wrapped):
    """Guidance whose branches under the prompt attend so.

    Attributes:
        form: the numbers.
    """

    form: NormalizedAttention = field(default_factory=lambda: NormalizedAttention(1.0))

    @property
    def all_branches(self) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        return tuple(map(self._with_attention, self.inner.all_branches))

    @property
    def prompts(self) -> frozenset[PromptName]:
        """See `guidance.Guidance`."""
        return self.inner.prompts | {"negative"}

    def branches(self, step: Step) -> tuple[Branch, ...]:
        """See `guidance.Guidance`."""
        return tuple(map(self._with_attention, self.inner.branches(step)))

    def _with_attention(self, branch: Branch) -> Branch:
        is_guided = branch.prompt == "positive"
        return replace(branch, make_attention=self.form.make_attention) if is_guided else branch
