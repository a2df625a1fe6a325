"""Narrow autoencoders of both generations with known weights, also in the official layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod, sqrt

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlx_video.config import WAN22_VAE, VAEConfig
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.stream import StreamState
from mlx_video.weights.names.vae_names import vae_tensors

Arrays = dict[str, np.ndarray]

TINY = VAEConfig(encoder_dim=8, decoder_dim=8)
# Its decoder makes frames of twice the width and height.
TINY_2X = replace(TINY, output_scale=2)
TINY22 = replace(WAN22_VAE, encoder_dim=6, decoder_dim=8)
# About a hundred float32 roundings in forty layers; the official code in float32 is as far from float64.
NETWORK = 1e-5
# Sums of a few hundred float32 products in another order.
ROUNDING = 2e-6


def wave(count: int, phase: float, slope: float, bend: float) -> np.ndarray:
    """cos(phase + slope·i + bend·i²) for i below `count`, float64: numbers that anyone can make again."""
    i = np.arange(count, dtype=np.float64)
    return np.cos(phase + slope * i + bend * i * i)


def probe(shape: tuple[int, ...], phase: float, size: float) -> np.ndarray:
    """Input of a golden vector, float32, C order."""
    return (size * wave(prod(shape), phase, 0.61, 0.00023)).astype(np.float32).reshape(shape)


def wave_weights(config: VAEConfig) -> Arrays:
    """Weights of a golden vector, official names and layout, float32."""
    shapes = vae_tensors(config)
    arrays = {}
    for index, name in enumerate(sorted(shapes), 1):
        shape = shapes[name]
        values = wave(prod(shape), 1.7 * index, 0.37, 0.00011)
        if name.endswith("gamma"):
            values = 1 + 0.25 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        else:
            values = 1.4 * values / sqrt(prod(shape) / shape[0])
        arrays[name] = values.astype(np.float32).reshape(shape)
    return arrays


def to_parameters(arrays: Mapping[str, np.ndarray]) -> list[tuple[str, mx.array]]:
    """Official layout → ours: channels last, norm scales of one axis."""

    def convert(name: str, values: np.ndarray) -> np.ndarray:
        if name.endswith("gamma"):
            return values.reshape(-1)
        return np.moveaxis(values, 1, -1) if values.ndim > 2 else values

    return [(name, mx.array(convert(name, values))) for name, values in arrays.items()]


def build_vae(config: VAEConfig = TINY) -> WanVAE:
    """A VAE with the weights of :func:`wave_weights`, every one loaded by name and shape."""
    vae = WanVAE(config)
    vae.load_weights(to_parameters(wave_weights(config)))
    return vae


def decode(
    vae: WanVAE, latents: mx.array, pushes: Sequence[int], parts: Sequence[int] = (1, 1, 1, 1)
) -> mx.array:
    """All frames of latents [B, T, H, W, C] pushed in these numbers, one stream."""
    state = StreamState()
    chunks = mx.split(latents, np.cumsum(pushes)[:-1].tolist(), axis=1)
    return mx.concatenate([frame for chunk in chunks for frame in vae.decode(chunk, state, parts)], axis=1)


def encode(
    vae: WanVAE, frames: mx.array, pushes: Sequence[int], parts: Sequence[int] = (1, 1, 1, 1)
) -> mx.array:
    """All latents of frames [B, F, H, W, 3] pushed in these numbers, one stream."""
    state = StreamState()
    chunks = mx.split(frames, np.cumsum(pushes)[:-1].tolist(), axis=1)
    return mx.concatenate([mean for chunk in chunks for mean in vae.encode(chunk, state, parts)], axis=1)


def channels_last(array: np.ndarray) -> mx.array:
    """[C, T, H, W] → [T, H, W, C]."""
    return mx.array(np.moveaxis(array, 0, -1))


def parameter_shapes(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    """The parameters that a VAE must have: its tensors, channels last, norm scales of one axis."""
    shapes = {}
    for name, shape in vae_tensors(config).items():
        if name.endswith("gamma"):
            shape = shape[:1]
        shapes[name] = (shape[0], *shape[2:], shape[1]) if len(shape) > 2 else shape
    return shapes


def memory_in_use(vae: WanVAE, chunk: mx.array, pushes: int, *, encoding: bool = False) -> list[int]:
    """Bytes in use after every push of `chunk` into one stream, when its results are dropped.

    Not the peaks: on a CPU they depend on how far the allocating thread runs ahead of the computing one.
    """
    state, run, used = StreamState(), vae.encode if encoding else vae.decode, []
    cache_limit = mx.set_cache_limit(0)  # a buffer that is used again may be larger than its array
    for _ in range(pushes):
        for result in run(chunk, state):
            mx.eval(result)
        del result
        mx.synchronize()
        used.append(mx.get_active_memory())
    mx.set_cache_limit(cache_limit)
    return used


def largest_difference(found: mx.array | np.ndarray, expected: mx.array | np.ndarray) -> float:
    """Relative to the largest expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def draw(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def randomise(module: nn.Module) -> nn.Module:
    mx.random.seed(3)
    module.update(tree_map(lambda p: 0.3 * mx.random.normal(p.shape), module.parameters()))
    return module


def push_in_parts(layer, x: mx.array, sizes: list[int]) -> mx.array:
    """Output of a layer that is given `x` in parts of these sizes, one stream."""
    state, chunks = StreamState(), []
    for part in mx.split(x, np.cumsum(sizes)[:-1].tolist(), axis=1):
        chunk = layer(part, state)
        if chunk is not None:
            chunks.append(chunk)
    return mx.concatenate(chunks, axis=1)


def push_whole(layer, x: mx.array) -> mx.array:
    return push_in_parts(layer, x, [x.shape[1]])
