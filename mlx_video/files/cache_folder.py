"""Where things are kept that can be made again: converted demo models, encoded prompts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlx_video.addresses import AddressError, expand_home
from mlx_video.errors import ConfigError


def cache_folder() -> Path:
    """$MLX_VIDEO_CACHE, else `mlx-video` in $XDG_CACHE_HOME or in the system's usual cache folder.

    Raises:
        ConfigError: the variable names no path of this system, or the home folder is not known.
    """
    if folder := os.environ.get("MLX_VIDEO_CACHE"):
        return _expand("MLX_VIDEO_CACHE", folder)
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return _expand("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or usual) / "mlx-video"


def _expand(variable: str, folder: str) -> Path:
    try:
        return expand_home(folder)
    except AddressError as error:
        raise ConfigError(f"environment variable {variable}: {error}") from error
