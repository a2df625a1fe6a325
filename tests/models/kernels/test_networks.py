"""Whole networks with every kernel chosen."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.dispatch import current_limits, use_limits
from mlx_video.models.kernels.channel_norm import CHANNEL_NORM
from mlx_video.models.kernels.layer_norm import LAYER_NORM
from mlx_video.models.kernels.metal_kernel import MetalKernel
from mlx_video.models.kernels.rotary_norm import ROTARY_NORM
from tests.models.kernels.metal_in_cpp import COMPILER, run_in_cpp
from tests.models.networks import build_transformer, forward, layout_at, relative_error
from tests.models.vae.tiny_vae import NETWORK, build_vae, decode, encode, probe

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

TRANSFORMER_KERNELS = {LAYER_NORM.name, ROTARY_NORM.name}


@pytest.fixture
def calls(monkeypatch) -> dict[str, int]:
    """Every kernel in force, and how often each was run."""
    calls: dict[str, int] = {}

    def run(kernel: MetalKernel, arrays, **options) -> mx.array:
        calls[kernel.name] = calls.get(kernel.name, 0) + 1
        return run_in_cpp(kernel, arrays, **options)

    monkeypatch.setattr(MetalKernel, "run", run)
    return calls


def with_kernels(*names: str):
    return use_limits(replace(current_limits(), kernels=frozenset(names)))


@pytest.mark.parametrize("timesteps", [None, [0.0] * 6 + [937.0] * 12], ids=["one timestep", "two"])
def test_transformer(calls, timesteps):
    layout = timesteps and layout_at((3, 2, 3), timesteps)
    plain = forward(build_transformer(), layout=layout)
    with with_kernels(*TRANSFORMER_KERNELS):
        found = forward(build_transformer(), layout=layout)
    # Two blocks: float32 sums in another order.
    assert relative_error(found, plain) <= 2e-6
    # Queries and keys of every block; three norms of each, and the head's, for each row of timesteps.
    assert calls[ROTARY_NORM.name] == 4
    assert calls[LAYER_NORM.name] >= 7


def test_vae(calls):
    vae, latents = build_vae(), mx.array(probe((1, 2, 3, 4, 16), 0.7, 1.0))
    frames = mx.array(probe((1, 5, 16, 16, 3), 0.3, 1.0))
    plain = decode(vae, latents, [2]), encode(vae, frames, [1, 4])
    with with_kernels(CHANNEL_NORM.name):
        found = decode(vae, latents, [2]), encode(vae, frames, [1, 4])
    assert calls[CHANNEL_NORM.name] > 40
    for mine, other in zip(found, plain, strict=True):
        assert relative_error(np.array(mine), np.array(other)) <= NETWORK
