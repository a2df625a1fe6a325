"""Where things are kept that can be made again: converted demo models, encoded prompts."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """$MLX_VIDEO_CACHE, else `mlx-video` in $XDG_CACHE_HOME or in the system's usual cache folder."""
    if folder := os.environ.get("MLX_VIDEO_CACHE"):
        return Path(folder).expanduser()
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or usual).expanduser() / "mlx-video"
