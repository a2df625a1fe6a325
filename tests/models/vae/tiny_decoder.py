"""Tiny decoders with numbers that anyone can make alike, by the names of their authors."""

from __future__ import annotations

from itertools import chain

import mlx.core as mx
import numpy as np

from mlx_video.config import TinyVAEConfig
from mlx_video.models.vae.tiny import TinyDecoder
from mlx_video.weights.names.tiny_vae_names import WAN_RULES, tiny_vae_tensors
from mlx_video.weights.rules import Shape, apply_rules

SMALL_21 = TinyVAEConfig(z_dim=16, patch_size=1, widths=(16, 8, 8, 8))
SMALL_22 = TinyVAEConfig(z_dim=48, patch_size=2, widths=(16, 8, 8, 8))


def random_weights(config: TinyVAEConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the decoder half that keep activations in range."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in tiny_vae_tensors(config).items():
        scale = 0.5 * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        weights[name] = (scale * random.standard_normal(shape)).astype(np.float32)
    return weights


def build(config: TinyVAEConfig, weights: dict[str, np.ndarray]) -> TinyDecoder:
    """A decoder with weights of its authors' names, converted as a file of them is."""
    decoder, converted = TinyDecoder(config), []
    for name, values in weights.items():
        target, transform = apply_rules(name, WAN_RULES)
        if target is not None:
            converted.append((target, transform.apply(mx.array(values))))
    decoder.load_weights(converted)
    return decoder


def encoder_tensors(config: TinyVAEConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the encoder half, which files hold besides."""
    shapes: dict[str, Shape] = {
        "encoder.0.weight": (64, 3 * config.patch_size**2, 3, 3),
        "encoder.0.bias": (64,),
        "encoder.17.weight": (config.z_dim, 64, 3, 3),
        "encoder.17.bias": (config.z_dim,),
        **{f"encoder.{index}.weight": (64, 64, 3, 3) for index in (3, 8, 13)},
    }
    shapes |= {f"encoder.{index}.conv.weight": (64, 64 * (1 + (index < 12)), 1, 1) for index in (2, 7, 12)}
    for index in chain(range(4, 7), range(9, 12), range(14, 17)):
        for conv in (0, 2, 4):
            shapes[f"encoder.{index}.conv.{conv}.weight"] = (64, 64 if conv else 128, 3, 3)
            shapes[f"encoder.{index}.conv.{conv}.bias"] = (64,)
    return shapes
