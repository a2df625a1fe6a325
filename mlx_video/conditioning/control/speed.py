"""Speed control: a motion bucket's addition to the modulation of every pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_video.models.block_context import Pass
from mlx_video.models.transformer import WanTransformer


@dataclass(frozen=True, slots=True)
class SpeedAddOn:
    """How much moves, in every pass of a transformer.

    Attributes:
        added_modulation: what the motion controller made of the bucket, [6, dim].
    """

    added_modulation: mx.array

    def __call__(self, transformer: WanTransformer, one: Pass) -> Pass:
        """The pass with the addition."""
        added = self.added_modulation
        if one.added_modulation is not None:
            added = added + one.added_modulation
        return replace(one, added_modulation=added)
