"""Memory of a component comes back when its block ends."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_video.loading.residency import release_memory, resident

WIDTH = 1024
BYTES = WIDTH * WIDTH * 4


def load() -> nn.Linear:
    layer = nn.Linear(WIDTH, WIDTH, bias=False)
    mx.eval(layer.parameters())
    return layer


def test_a_component_is_gone_after_its_block_though_a_name_still_holds_it():
    release_memory()
    before = mx.get_active_memory()
    with resident(load) as layer:
        assert mx.get_active_memory() >= before + BYTES
    assert mx.get_active_memory() < before + BYTES // 8
    assert mx.get_cache_memory() == 0
    assert layer is not None


def test_a_component_is_released_when_its_block_fails():
    before = mx.get_active_memory()
    with pytest.raises(RuntimeError, match="stop"), resident(load):
        raise RuntimeError("stop")
    assert mx.get_active_memory() < before + BYTES // 8
