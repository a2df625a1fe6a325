"""Tiny networks with known weights, and the same weights under the official names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig
from mlx_video.models import elementwise, matmul
from mlx_video.models.block_context import BlockContext, Pass, PromptTokens, Step
from mlx_video.models.encoders import text_encoder
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.models.forward import BlockSource
from mlx_video.models.token_layout import TokenLayout, video_layout, video_segment
from mlx_video.models.transformer import WanTransformer
from mlx_video.weights.names import image_encoder_names, text_encoder_names, transformer_names
from mlx_video.weights.rules import Rule, apply_rules
from tests.parity.golden import fill, fill_weights

Arrays = dict[str, np.ndarray]
Network = TypeVar("Network", bound=nn.Module)

TRANSFORMER = TransformerConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32)
TEXT_ENCODER = TextEncoderConfig(vocab_size=300, dim=64, dim_attn=64, dim_ffn=96, num_heads=4, num_layers=2)
IMAGE_TO_VIDEO = replace(TRANSFORMER, in_dim=36, model_type="i2v", image_dim=1280)
FIRST_AND_LAST_FRAME = replace(IMAGE_TO_VIDEO, model_type="flf2v", image_positions=514)
IMAGE_ENCODER = ImageEncoderConfig(64, 256, num_heads=4, num_layers=2, image_size=56, patch_size=14)

LATENT_SIZE = (3, 4, 6)
NUM_TOKENS = 18
TIMESTEP = 937.0
CONTEXT = fill((9, 32), 1001)
LATENTS = fill((16, *LATENT_SIZE), 1002, 1.7)
CONCAT_LATENTS = fill((20, *LATENT_SIZE), 1003, 1.7)
ONE_IMAGE = fill((257, 1280), 1004)
TWO_IMAGES = fill((2 * 257, 1280), 1004)


def transformer_arrays(config: TransformerConfig = TRANSFORMER) -> Arrays:
    """Weights under the official names."""
    return fill_weights(transformer_names.transformer_tensors(config))


def text_encoder_arrays(config: TextEncoderConfig = TEXT_ENCODER) -> Arrays:
    """Weights under the official names."""
    return fill_weights(text_encoder_names.text_encoder_tensors(config))


def image_encoder_arrays(config: ImageEncoderConfig = IMAGE_ENCODER) -> Arrays:
    """Weights of a whole tower under the official names, with what Wan leaves out."""
    whole = image_encoder_names.image_encoder_tensors(replace(config, num_layers=config.num_layers + 1))
    width = config.width
    ends = {"post_norm.weight": (width,), "post_norm.bias": (width,), "head": (width, 32)}
    return fill_weights(whole | ends)


def build_transformer(
    config: TransformerConfig = TRANSFORMER, dtype: mx.Dtype = mx.float32
) -> WanTransformer:
    """Our transformer with the weights of :func:`transformer_arrays`."""
    return load(WanTransformer(config), transformer_arrays(config), transformer_names.WAN_RULES, dtype)


def build_text_encoder(config: TextEncoderConfig = TEXT_ENCODER, dtype: mx.Dtype = mx.float32) -> UMT5Encoder:
    """Our text encoder with the weights of :func:`text_encoder_arrays`."""
    return load(UMT5Encoder(config), text_encoder_arrays(config), text_encoder_names.WAN_RULES, dtype)


def build_image_encoder(
    config: ImageEncoderConfig = IMAGE_ENCODER, dtype: mx.Dtype = mx.float32
) -> CLIPImageEncoder:
    """Our image encoder with the weights of :func:`image_encoder_arrays`."""
    rules = image_encoder_names.wan_rules(config)
    return load(CLIPImageEncoder(config), image_encoder_arrays(config), rules, dtype)


def load(
    module: Network, arrays: Mapping[str, np.ndarray], rules: Sequence[Rule], dtype: mx.Dtype
) -> Network:
    """Rename official arrays and load every one of them."""
    renamed = []
    for name, values in arrays.items():
        target, transform = apply_rules(name, rules)
        if target is not None:
            renamed.append((target, transform.apply(mx.array(values)).astype(dtype)))
    module.load_weights(renamed)
    return module


def run_gpu_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways that a GPU would, unfused: products in the weights' type, MLX's attention.

    They run on a CPU, too, if slowly.
    """
    monkeypatch.setattr(elementwise, "_compile_choice", False)
    for module in (elementwise, matmul, text_encoder):
        monkeypatch.setattr(module, "on_gpu", lambda: True)


def at(timestep: float = TIMESTEP, index: int = 0, count: int = 1) -> Step:
    """A step at a timestep."""
    return Step(index, count, timestep, timestep / 1000, 0.0)


def context_of(transformer: WanTransformer, prompt: PromptTokens, timestep: float = TIMESTEP) -> BlockContext:
    """What the blocks see of the standard latents."""
    layout = video_layout((3, 2, 3))
    time, rotary = transformer.embed_time(timestep, layout), transformer.rotary_table(layout)
    return BlockContext(at(timestep), time, layout, rotary, prompt)


def predict(
    transformer: WanTransformer,
    texts: Sequence[PromptTokens],
    timestep: float = TIMESTEP,
    *,
    pass_options: Sequence[Mapping[str, object]] | None = None,
    **options,
) -> list[mx.array]:
    """Velocities of the standard latents, one under each prompt."""
    passes = [Pass(text, **one) for text, one in zip(texts, pass_options or [{}] * len(texts), strict=True)]
    return transformer.predict(mx.array(LATENTS), at(timestep), passes, **options)


def forward(
    transformer: WanTransformer,
    timestep: float = TIMESTEP,
    image_tokens: np.ndarray | None = None,
    *,
    concat_latents: mx.array | None = None,
    layout: TokenLayout | None = None,
    block_source: BlockSource | None = None,
    **pass_options,
) -> np.ndarray:
    """Velocity of the standard latents under the standard text, and an image."""
    tokens = None if image_tokens is None else mx.array(image_tokens)
    text = transformer.project_text(mx.array(CONTEXT), tokens)
    (velocity,) = predict(
        transformer,
        [text],
        timestep,
        pass_options=[pass_options],
        concat_latents=concat_latents,
        layout=layout,
        block_source=block_source,
    )
    return np.array(velocity)


def layout_at(grid: tuple[int, int, int], timesteps: Sequence[float | None]) -> TokenLayout:
    """The layout of a grid whose every token states a timestep."""
    positions = np.ndindex(grid)
    return TokenLayout(
        tuple(video_segment((1, 1, 1), p, timestep=t) for p, t in zip(positions, timesteps, strict=True))
    )


def relative_error(found: np.ndarray | mx.array, expected: np.ndarray | mx.array) -> float:
    """Largest difference over the largest expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
