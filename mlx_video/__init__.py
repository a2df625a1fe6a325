"""Wan video models on Apple silicon: convert PyTorch checkpoints, make videos.

from mlx_video import WanPipeline
video = WanPipeline.from_pretrained("wan_mlx_model")("a red circle moving left on a black background")
video.save("circle.mp4")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mlx_video.errors import (
    AdapterError,
    CheckpointError,
    ConfigError,
    MediaError,
    MemoryBudgetError,
    MLXVideoError,
    NonFiniteError,
    RequestError,
)

if TYPE_CHECKING:
    from mlx_video.media.clip import Video
    from mlx_video.pipeline.wan_pipeline import WanPipeline, convert_checkpoint

__version__ = "0.1.0"

__all__ = [
    "AdapterError",
    "CheckpointError",
    "ConfigError",
    "MLXVideoError",
    "MediaError",
    "MemoryBudgetError",
    "NonFiniteError",
    "RequestError",
    "Video",
    "WanPipeline",
    "convert_checkpoint",
]

# Looked up on first use, so that importing the package does not load MLX.
_LAZY = {
    "Video": "mlx_video.media.clip",
    "WanPipeline": "mlx_video.pipeline.wan_pipeline",
    "convert_checkpoint": "mlx_video.pipeline.wan_pipeline",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mlx_video' has no attribute {name!r}")
