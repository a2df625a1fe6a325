"""The recipe of krea-realtime where it makes a video as a whole."""

from __future__ import annotations

import re

from mlx_video.sampling.recipe import Preset

# Source: modelscope/DiffSynth-Studio examples/wanvideo/model_inference/krea-realtime-video.py.
KREA = Preset(
    "krea",
    re.compile(r"krea.{0,12}real.?time|real.?time.{0,12}krea", re.IGNORECASE),
    solver="euler",
    steps=6,
    guide_scale=1.0,
    shifts={"t2v": 20.0},
)
