"""A tiny Animate transformer with known weights, and the same weights under the official names."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np

from mlx_video.config import FACE_SIZE, FaceConfig, TransformerConfig
from mlx_video.models.animate.animate import AnimateTransformer
from mlx_video.weights.names.animate_names import ANIMATE_RULES, animate_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from tests.models.networks import Arrays, load
from tests.parity.golden import fill, fill_weights

FACE = FaceConfig(
    layers=(0, 5), channels=(2, 2, 4, 4, 4, 8, 8, 8), style_dim=16, num_directions=5, motion_dim=24,
    hidden_dim=16, num_heads=4,
)  # fmt: skip
CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=2, num_layers=10, model_type="animate", in_dim=36, text_dim=32,
    image_dim=1280, face=FACE,
)  # fmt: skip
NUM_FACES = 5
FACES = fill((NUM_FACES, FACE_SIZE, FACE_SIZE, 3), 2001)
MOTIONS = fill((9, FACE.motion_dim), 2002, 1.7)
FACE_TOKENS = fill((3, 5, CONFIG.dim), 2003, 1.7)
TOKENS = fill((18, CONFIG.dim), 2004, 1.7)
POSE_LATENTS = fill((16, 2, 4, 6), 2005, 1.7)


def animate_arrays(config: TransformerConfig = CONFIG) -> Arrays:
    """Weights under the official names; those of the motion encoder are as large as in training."""
    arrays = fill_weights(transformer_tensors(config) | animate_tensors(config))
    for salt, (name, values) in enumerate(arrays.items()):
        if name.startswith("motion_encoder.") and values.ndim > 1 and min(values.shape[:2]) > 1:
            arrays[name] = fill(values.shape, 3000 + salt, 1.7)
    return arrays


def build_animate(config: TransformerConfig = CONFIG, dtype: mx.Dtype = mx.float32) -> AnimateTransformer:
    """Our transformer with the weights of :func:`animate_arrays`."""
    return load(AnimateTransformer(config), animate_arrays(config), (*ANIMATE_RULES, *WAN_RULES), dtype)


def with_hidden_dim(hidden_dim: int) -> TransformerConfig:
    """The config with other channels in the face encoder; the official code knows 1024 alone."""
    return replace(CONFIG, face=replace(FACE, hidden_dim=hidden_dim))


def faces() -> list[mx.array]:
    """The faces one by one."""
    return [mx.array(np.ascontiguousarray(face)) for face in FACES]
