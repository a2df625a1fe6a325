"""The step caches by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mlx_video.sampling.step_caches.easycache import EasyCache
from mlx_video.sampling.step_caches.first_block import FirstBlockCache
from mlx_video.sampling.step_caches.magcache import MagCache
from mlx_video.sampling.step_caches.step_cache import CacheMethod
from mlx_video.sampling.step_caches.teacache import TeaCache

STEP_CACHES: Mapping[str, Callable[..., CacheMethod]] = MappingProxyType(
    {
        "magcache": MagCache,
        "teacache": TeaCache,
        "easycache": EasyCache,
        "first-block": FirstBlockCache,
    }
)
"""Name → the cache, from settings by name; what is left out is the published number."""
