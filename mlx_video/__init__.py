"""Wan video models on Apple silicon: convert PyTorch checkpoints, make videos.

from mlx_video import WanPipeline
video = WanPipeline.from_pretrained("wan_mlx_model")("a red circle moving left on a black background")
video.save("circle.mp4")
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from mlx_video.errors import (
    AdapterError,
    BatchError,
    Cancelled,
    CheckpointError,
    ConfigError,
    DatasetError,
    DeviceError,
    MediaError,
    MemoryBudgetError,
    MLXVideoError,
    NonFiniteError,
    RequestError,
)

if TYPE_CHECKING:
    from mlx_video.api import WanPipeline, convert_checkpoint
    from mlx_video.conditioning.encoded_prompt import EncodedPrompt
    from mlx_video.media.clip import Video, VideoMade
    from mlx_video.runs.batch.item import BatchResult

# MLX reads it once, at its first product. Otherwise float32 products keep ten bits of mantissa on GPUs with
# tensor units.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

__version__ = "0.1.0"

__all__ = [
    "AdapterError",
    "BatchError",
    "BatchResult",
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "DeviceError",
    "EncodedPrompt",
    "MLXVideoError",
    "MediaError",
    "MemoryBudgetError",
    "NonFiniteError",
    "RequestError",
    "Video",
    "VideoMade",
    "WanPipeline",
    "convert_checkpoint",
]

# Looked up on first use, so that importing the package does not load MLX.
_LAZY = {
    "BatchResult": "mlx_video.runs.batch.item",
    "EncodedPrompt": "mlx_video.conditioning.encoded_prompt",
    "Video": "mlx_video.media.clip",
    "VideoMade": "mlx_video.media.clip",
    "WanPipeline": "mlx_video.api",
    "convert_checkpoint": "mlx_video.api",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mlx_video' has no attribute {name!r}")
