"""Runs of Bernini-R that are recorded: sources and prompts made of numbers that anyone can fill alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_video.config import TransformerConfig
from tests.parity.golden import fill

CONFIG = TransformerConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32)
STEPS = 6


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        mode: of the authors' guidance.
        has_video: whether a video is edited.
        num_pictures: how many pictures are given, of four sizes.
        frames: latent frames of the result, and of the video.
        is_dual: whether two experts share the steps.
    """

    mode: str
    has_video: bool = False
    num_pictures: int = 0
    frames: int = 2
    is_dual: bool = True

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the latents: frames so large that some differences are longer than the limit."""
        return 16, self.frames, 16, 20

    @property
    def noise(self) -> np.ndarray:
        return fill(self.shape, 3001, 1.7)

    @property
    def video(self) -> np.ndarray | None:
        return fill(self.shape, 3002, 1.7) if self.has_video else None

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        sizes = ((4, 6), (8, 4), (6, 6), (2, 10))
        return tuple(
            fill((16, 1, *sizes[index % len(sizes)]), 3003 + index, 1.7) for index in range(self.num_pictures)
        )


CASES = {
    "t2v": Case("t2v_apg"),
    "t2i": Case("t2v_apg", frames=1),
    "v2v": Case("v2v_apg", has_video=True),
    "i2i": Case("v2v", has_video=True, frames=1),
    "r2v": Case("r2v_apg", num_pictures=2),
    "r2v of seven": Case("r2v_apg", num_pictures=7),
    "rv2v": Case("rv2v", has_video=True, num_pictures=2),
    "rv2v of five": Case("rv2v", has_video=True, num_pictures=5),
    "v2v, one expert": Case("v2v_apg", has_video=True, is_dual=False),
    "rv2v, one expert": Case("rv2v", has_video=True, num_pictures=1, is_dual=False),
}
PROMPT, NEGATIVE_PROMPT = fill((9, 32), 3101), fill((5, 32), 3102)
