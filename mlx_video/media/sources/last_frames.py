"""The last frames of a video at another frame rate."""

from __future__ import annotations

from collections import deque

import numpy as np

from mlx_video.geometry import latent_frames, pixel_frames
from mlx_video.media.sources.pick_frames import pick_all
from mlx_video.media.sources.source_video import SourceVideo


def read_last_frames(
    video: SourceVideo, most: int, stride: int, fps: float, video_fps: float | None = None
) -> tuple[np.ndarray, ...]:
    """The last frames of a video, as many as fill whole latent frames.

    Args:
        video: read from its beginning.
        most: how many are wanted, `stride`·n+1; fewer of a shorter video.
        stride: pixel frames of a latent frame.
        fps, video_fps: as for :class:`mlx_video.media.sources.pick_frames.Picking`.

    Returns:
        uint8 RGB [H, W, 3] each, in their order; at least one.

    Raises:
        MediaError: it cannot be read.
    """
    tail = deque(pick_all(video, fps, video_fps), maxlen=most)
    return tuple(tail)[-pixel_frames(latent_frames(len(tail), stride), stride) :]
