"""Adapter files with known numbers, a tiny transformer to apply them to, and what should come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_video.config import TransformerConfig
from mlx_video.lora.read import AdapterSet, read_adapters
from mlx_video.models.transformer import WanTransformer
from mlx_video.request import LoraChoice
from mlx_video.weights.network import PLAIN
from mlx_video.weights.quantize import is_quantized_layer
from tests.models.networks import TRANSFORMER, build_transformer
from tests.parity.golden import fill

Arrays = dict[str, np.ndarray]
# float32 rounds at 6e-8; a delta sums a few products, and is added once.
DENSE = {"rtol": 1e-6, "atol": 1e-6}
RANK = 4
IMAGE_TO_VIDEO = replace(TRANSFORMER, in_dim=36, model_type="i2v", image_dim=32)

# Our layers, in the official spelling and in Diffusers'; written out, not made by the rules under test.
LAYERS = {
    "blocks.0.self_attn.q": ("blocks.0.self_attn.q", "blocks.0.attn1.to_q"),
    "blocks.1.self_attn.o": ("blocks.1.self_attn.o", "blocks.1.attn1.to_out.0"),
    "blocks.1.cross_attn.k": ("blocks.1.cross_attn.k", "blocks.1.attn2.to_k"),
    "blocks.0.ffn.fc1": ("blocks.0.ffn.0", "blocks.0.ffn.net.0.proj"),
    "blocks.1.ffn.fc2": ("blocks.1.ffn.2", "blocks.1.ffn.net.2"),
    "text_embedding_1": ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    "time_embedding_0": ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    "time_projection": ("time_projection.1", "condition_embedder.time_proj"),
    "head.head": ("head.head", "proj_out"),
}


def pair(layer: str, salt: int = 1, config: TransformerConfig = TRANSFORMER, rank: int = RANK):
    """down [rank, in] and up [out, rank] for one of our layers."""
    rows, columns = PLAIN.parameters(config)[f"{layer}.weight"]
    return fill((rank, columns), salt, 0.5), fill((rows, rank), salt + 100, 0.5)


def product(factors: tuple[np.ndarray, np.ndarray], scale: float = 1.0) -> np.ndarray:
    """scale · up · down in float64."""
    down, up = (factor.astype(np.float64) for factor in factors)
    return scale * (up.reshape(len(up), -1) @ down.reshape(len(down), -1))


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, metadata)
    return path


def read(*paths: Path | tuple[Path, float], config: TransformerConfig = TRANSFORMER, **options) -> AdapterSet:
    choices = [LoraChoice(path) if isinstance(path, Path) else LoraChoice(*path) for path in paths]
    return read_adapters(choices, config, **options)


@lru_cache
def base_arrays(config: TransformerConfig = TRANSFORMER) -> Mapping[str, np.ndarray]:
    """The tiny transformer's parameters before any change."""
    return arrays_of(build_transformer(config))


def arrays_of(module: nn.Module) -> Arrays:
    """Every parameter, in the type of its bits; bfloat16 as float32."""
    parameters = tree_flatten(module.parameters())
    return {
        name: np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)
        for name, array in parameters
    }


def build_quantized(
    bits: int = 4, config: TransformerConfig = TRANSFORMER, dtype: mx.Dtype = mx.float32
) -> WanTransformer:
    """The tiny transformer with its block layers packed."""
    model = build_transformer(config, dtype)
    nn.quantize(model, group_size=32, bits=bits, class_predicate=lambda path, _: is_quantized_layer(path))
    return model


def layer_at(module: nn.Module, path: str) -> nn.Module:
    return dict(module.named_modules())[path]


def unpacked(layer: nn.QuantizedLinear) -> np.ndarray:
    """A packed weight in float64, from the very numbers that are stored."""
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    return np.array(weight.astype(mx.float32), np.float64)


def assert_changed(model: nn.Module, deltas: Mapping[str, np.ndarray], tolerance: dict = DENSE) -> None:
    """Every parameter is what it was, plus its delta in float64 where it has one."""
    base = base_arrays(model.config)
    found = arrays_of(model)
    assert set(found) == set(base)
    for name, before in base.items():
        if name in deltas:
            expected = before + np.asarray(deltas[name], np.float64).reshape(before.shape)
            np.testing.assert_allclose(found[name], expected, **tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], before, err_msg=name)
