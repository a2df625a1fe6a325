"""Encoders that stand in for the VAE where a test asks what it is given."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.frames import Encoding
from mlx_video.events import FramesEncoded
from mlx_video.geometry import VideoGeometry, measure


def geometry_of(width: int, height: int, num_frames: int, stride: int = 8, z_dim: int = 16) -> VideoGeometry:
    return measure(width, height, num_frames, z_dim=z_dim, stride=(4, stride, stride), patch_size=(1, 2, 2))


class CellEncoder:
    """Latents are the mean of each 8×8 cell over each group of frames, in so many channels; keeps the clips.

    A change of pixels so changes the latents of its own cell and group, and no others.
    """

    def __init__(self, channels: int = 16) -> None:
        self.clips: list[np.ndarray] = []
        self._channels = channels

    def __call__(self, frames: Iterable[mx.array], num_frames: int) -> Encoding[mx.array]:
        clip = np.concatenate([np.array(piece) for piece in frames])
        assert len(clip) == num_frames
        self.clips.append(clip)
        yield FramesEncoded(len(clip), num_frames)
        height, width = clip.shape[1] // 8, clip.shape[2] // 8
        cells = clip.reshape(len(clip), height, 8, width, 8, 3).mean((2, 4, 5))
        groups = [cells[:1], *np.split(cells[1:], range(4, len(cells) - 1, 4))]
        means = np.stack([group.mean(0) for group in groups if len(group)])
        return mx.array(np.broadcast_to(means, (self._channels, *means.shape)).astype(np.float32))
