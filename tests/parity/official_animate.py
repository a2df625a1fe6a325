"""The official Animate transformer, and Diffusers' port of it, around tiny networks on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from mlx_video.config import FACE_SIZE, TransformerConfig
from tests.parity.official import exact_attention, wan_module


def animate_modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    """`model_animate`, `face_blocks` and `motion_encoder` of the package wan22."""
    for name in ("attention", "model"):
        wan_module(name)
    model_animate, motion = wan_module("animate.model_animate"), wan_module("animate.motion_encoder")
    face_blocks = importlib.import_module("wan.modules.animate.face_blocks")
    face_blocks.flash_attn_func = exact_attention
    return model_animate, face_blocks, motion


def build_official(config: TransformerConfig, arrays: Mapping[str, np.ndarray]) -> Any:
    """The official transformer with these weights; its motion encoder has our channels."""
    import torch

    face = config.face
    assert face is not None
    model_animate, _, _ = animate_modules()
    torch.manual_seed(0)
    model = model_animate.WanAnimateModel(
        dim=config.dim, ffn_dim=config.ffn_dim, freq_dim=config.freq_dim, text_dim=config.text_dim,
        num_heads=config.num_heads, num_layers=config.num_layers, motion_encoder_dim=face.motion_dim,
    )  # fmt: skip
    model.motion_encoder = build_motion_encoder(face)
    model.img_emb = model_animate.MLPProj(config.image_dim, config.dim)
    state = {name: torch.tensor(values) for name, values in arrays.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith(".kernel") for name in missing)
    return model.eval().requires_grad_(False)


def build_motion_encoder(face: Any) -> Any:
    """The official motion encoder of other channels, which its constructor has in a table."""
    import torch

    _, _, motion = animate_modules()
    encoder = motion.Generator(8, style_dim=face.style_dim, motion_dim=face.num_directions)
    pairs = zip(face.channels, face.channels[1:], strict=False)
    encoder.enc.net_app.convs = torch.nn.ModuleList(
        [
            motion.ConvLayer(3, face.channels[0], 1),
            *(motion.ResBlock(*pair) for pair in pairs),
            motion.EqualConv2d(face.channels[-1], face.style_dim, 4, padding=0, bias=False),
        ]
    )
    encoder.dec.direction.weight = torch.nn.Parameter(torch.zeros(face.motion_dim, face.num_directions))
    return encoder


def build_diffusers_animate(config: TransformerConfig) -> Any:
    """Diffusers' transformer of these sizes, with random weights."""
    import torch
    from diffusers import WanAnimateTransformer3DModel

    face = config.face
    assert face is not None
    torch.manual_seed(0)
    model = WanAnimateTransformer3DModel(
        num_attention_heads=config.num_heads, attention_head_dim=config.head_dim, in_channels=config.in_dim,
        latent_channels=config.out_dim, out_channels=config.out_dim, text_dim=config.text_dim,
        freq_dim=config.freq_dim, ffn_dim=config.ffn_dim, num_layers=config.num_layers,
        image_dim=config.image_dim, added_kv_proj_dim=config.dim,
        motion_encoder_channel_sizes={
            str(FACE_SIZE >> index): channels for index, channels in enumerate(face.channels)
        },
        motion_style_dim=face.style_dim, motion_dim=face.num_directions, motion_encoder_dim=face.motion_dim,
        face_encoder_hidden_dim=face.hidden_dim, face_encoder_num_heads=face.num_heads,
        inject_face_latents_blocks=config.num_layers // len(face.layers),
    )  # fmt: skip
    return model.eval().requires_grad_(False)
