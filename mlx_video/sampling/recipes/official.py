"""The recipe of the official code: even noise levels under a shift, UniPC, classifier-free guidance."""

from __future__ import annotations

from mlx_video.sampling.recipe import Preset

OFFICIAL = Preset("official", solver="unipc")
