"""The tiny control networks of the recorded vectors: weights and inputs that are sines of their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np

from mlx_video.config import MotionControllerConfig, TransformerConfig
from mlx_video.models.control.fun import FunTransformer
from mlx_video.models.control.motion_controller import MotionController
from mlx_video.models.control.vace import VACETransformer
from mlx_video.models.transformer import WanTransformer
from mlx_video.weights.names.fun_names import FUN_RULES, fun_tensors
from mlx_video.weights.names.motion_names import motion_controller_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from mlx_video.weights.names.vace_names import VACE_RULES, vace_tensors
from tests.models.networks import Arrays, load

# Heads of 12 channels: rotary angles split alike in every reference.
PLAIN = TransformerConfig(dim=48, ffn_dim=64, num_heads=4, num_layers=4, freq_dim=32, text_dim=20, text_len=7)
VACE = replace(PLAIN, vace_layers=(0, 2), vace_in_dim=96)
FUN_CONTROL = replace(PLAIN, in_dim=48, image_dim=1280, reference_dim=16)
FUN_CAMERA = replace(PLAIN, in_dim=32, image_dim=1280, camera_dim=24)
FIRST_AND_LAST = replace(PLAIN, in_dim=36, image_dim=1280, image_positions=514)
IMAGE_TO_VIDEO = replace(PLAIN, in_dim=36, image_dim=1280)

_SCALES = tuple(
    f"{name}.weight"
    for name in ("norm_q", "norm_k", "norm_k_img", "norm3", "img_emb.proj.0", "img_emb.proj.4")
)


def sine_weights(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Weights by official names: 0.1·sin(0.37·j + 1.7·i), of element j and name i counted from 1."""
    arrays = {}
    for number, name in enumerate(sorted(shapes), 1):
        elements = np.arange(1, np.prod(shapes[name]) + 1, dtype=np.float64)
        values = 0.1 * np.sin(0.37 * elements + 1.7 * number) + name.endswith(_SCALES)
        arrays[name] = values.astype(np.float32).reshape(shapes[name])
    return arrays


def sine_input(shape: tuple[int, ...], rate: float) -> np.ndarray:
    """Array whose n-th element, from 1, is sin(rate·n)."""
    elements = np.arange(1, np.prod(shape) + 1, dtype=np.float64)
    return np.sin(rate * elements).astype(np.float32).reshape(shape)


def split_networks(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Weights of a transformer with VACE, whose stream has numbers of its own."""
    vace = {name: shape for name, shape in shapes.items() if name.startswith("vace_")}
    main = {name: shape for name, shape in shapes.items() if name not in vace}
    return sine_weights(main) | sine_weights(vace)


def build_plain(config: TransformerConfig = PLAIN) -> WanTransformer:
    """A transformer without a control network."""
    return load(WanTransformer(config), sine_weights(transformer_tensors(config)), WAN_RULES, mx.float32)


def build_vace(config: TransformerConfig = VACE) -> VACETransformer:
    """A transformer with VACE; its main stream is :func:`build_plain`'s."""
    return load(
        VACETransformer(config),
        split_networks(transformer_tensors(config) | vace_tensors(config)),
        (*VACE_RULES, *WAN_RULES),
        mx.float32,
    )


def build_fun(config: TransformerConfig) -> FunTransformer:
    """A transformer of the Fun family."""
    return load(
        FunTransformer(config),
        sine_weights(transformer_tensors(config) | fun_tensors(config)),
        (*FUN_RULES, *WAN_RULES),
        mx.float32,
    )


def build_motion_controller() -> MotionController:
    """A motion controller for the plain transformer."""
    sizes = MotionControllerConfig(PLAIN.dim, PLAIN.freq_dim)
    arrays = sine_weights(motion_controller_tensors(sizes))
    return load(MotionController(sizes), arrays, WAN_RULES, mx.float32)
