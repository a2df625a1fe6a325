"""Which latent frames are sampled, where in time they lie, and which of them are the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_video.geometry import Triple
from mlx_video.models.token_layout import TokenLayout, frames_layout, video_layout
from mlx_video.sampling.noise import NoiseSource
from mlx_video.sampling.start import Shape, draw_start_noise


@dataclass(frozen=True, slots=True)
class LatentFrames:
    """Latent frames of a run.

    Attributes:
        leading: frames of references, which stand before the video's, are sampled with them and then dropped.
        is_one_draw: whether the noise of leading frames is drawn with the video's, not behind it.
        times: position in time of every frame; None where they follow on each other.
        kept: number of the one frame that is the result; None where all but the leading ones are.
    """

    leading: int = 0
    is_one_draw: bool = False
    times: tuple[int, ...] | None = None
    kept: int | None = None

    def count(self, video_frames: int) -> int:
        """Latent frames that are sampled.

        Args:
            video_frames: of the result, where times say nothing else.
        """
        return self.leading + video_frames if self.times is None else len(self.times)

    def layout(self, grid: Triple, given_frames: int = 0) -> TokenLayout:
        """Layout of the tokens.

        Args:
            grid: tokens (t, h, w) of the result.
            given_frames: how many token frames at the start are free of noise.
        """
        sampled = (self.count(grid[0]), grid[1], grid[2])
        if self.times is None:
            return video_layout(sampled, given_frames)
        return frames_layout(self.times, sampled)

    def draw_noise(self, noise: NoiseSource, shape: Shape) -> mx.array:
        """Noise of all frames, at the first draw.

        Args:
            noise: of the run.
            shape: [C, T, H, W] of the result.
        """
        channels, frames, *sides = shape
        if self.times is None and not self.is_one_draw:
            return draw_start_noise(noise, shape, self.leading)
        return noise.draw((channels, self.count(frames), *sides))

    def window(self, frames: Sequence[int], *, is_anchored: bool) -> tuple[int, ...]:
        """Numbers among the sampled frames of what a context window sees.

        Leading frames stand before every window.

        Args:
            frames: of the result, in the window.
            is_anchored: whether the first frame stands before windows that do not have it.
        """
        anchor = () if not is_anchored or 0 in frames else (0,)
        return (*range(self.leading), *(self.leading + frame for frame in (*anchor, *frames)))

    def select_result(self, latents: mx.array) -> mx.array:
        """[C, sampled frames, H, W] → [C, T, H, W], the frames that are decoded."""
        if self.kept is not None:
            return latents[:, self.kept : self.kept + 1]
        return latents[:, self.leading :]


VIDEO_ALONE = LatentFrames()
"""Frames of an ordinary run."""
