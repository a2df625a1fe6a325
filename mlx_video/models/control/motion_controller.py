"""Motion controller: how much moves, as an addition to the modulation of every block."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import MotionControllerConfig
from mlx_video.models.matmul import project
from mlx_video.models.peak import WIDE, Peak
from mlx_video.models.transformer import sinusoid

TIMES = 10
"""Buckets are trained at ten times their number, in the range of timesteps."""


class MotionController(nn.Module):
    """Three linear layers over the sinusoid of a motion bucket.

    Source: modelscope/DiffSynth-Studio diffsynth/models/wan_video_motion_controller.py,
    WanMotionControllerModel.
    """

    def __init__(self, config: MotionControllerConfig) -> None:
        super().__init__()
        dim = config.dim
        # The SiLUs have places of their own: the names count them.
        self.linear = [
            nn.Linear(config.freq_dim, dim),
            nn.Identity(),
            nn.Linear(dim, dim),
            nn.Identity(),
            nn.Linear(dim, 6 * dim),
        ]
        self.config = config

    def __call__(self, motion_bucket_id: float) -> mx.array:
        """Addition for a motion bucket; it depends on neither timestep nor text.

        Args:
            motion_bucket_id: 0 to 100.

        Returns:
            [6, dim], float32.
        """
        first, _, second, _, third = self.linear
        waves = sinusoid(np.array([TIMES * motion_bucket_id], np.float64), self.config.freq_dim)
        # float32 whatever the weights, as the modulation that it is added to.
        hidden = nn.silu(project(first, waves, mx.float32))
        hidden = nn.silu(project(second, hidden, mx.float32))
        return project(third, hidden, mx.float32).reshape(6, -1)


def motion_peak(config: MotionControllerConfig) -> Peak:
    """Peak of its work: the waves, two hidden layers, and the addition twice."""
    nbytes = WIDE * (config.freq_dim + 2 * config.dim + 2 * 6 * config.dim)
    return Peak(nbytes, nbytes)
