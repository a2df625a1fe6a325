"""Build each network of a converted folder and fill it with its weights."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx

from mlx_video.checkpoint.model_folder import ModelFolder
from mlx_video.checkpoint.tensor_source import open_tensors
from mlx_video.config import ModelConfig
from mlx_video.models.text_encoder import UMT5Encoder
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.vae_wan21 import WanVAE21
from mlx_video.weights.load import load_module
from mlx_video.weights.vae_names import read_vae_config

DECODER_HALF = ("decoder.", "conv2.")


def load_text_encoder(model: ModelFolder, config: ModelConfig) -> UMT5Encoder:
    """Load the text encoder in the dtype of its file.

    Raises:
        CheckpointError: the file does not hold the encoder that config.json describes.
    """
    encoder = UMT5Encoder(config.text_encoder)
    with open_tensors(model.text_encoder) as source:
        load_module(encoder, source)
    return encoder


def load_transformer(model: ModelFolder, config: ModelConfig, name: str = "model") -> WanTransformer:
    """Load a transformer in the dtype, or the quantization, of its file.

    Args:
        model: the converted folder.
        config: what its config.json says.
        name: "model" for a single transformer.

    Raises:
        CheckpointError: the file does not hold the transformer that config.json describes.
        ConfigError: the quantization that config.json names is not the file's.
    """
    transformer = WanTransformer(config.transformer)
    with open_tensors(model.transformers[name]) as source:
        load_module(transformer, source, quantization=config.quantization)
    return transformer


def load_vae(model: ModelFolder, config: ModelConfig) -> WanVAE21:
    """Load the whole VAE as float32, whatever its file holds.

    Raises:
        CheckpointError: the file holds no Wan2.1 VAE.
    """
    with open_tensors(model.vae) as source:
        vae = WanVAE21(read_vae_config(source.infos, config.vae, label=source.label))
        load_module(vae, source, dtype=mx.float32)
    return vae


def load_vae_decoder(model: ModelFolder, config: ModelConfig) -> WanVAE21:
    """Load the decoder half of the VAE as float32, whatever its file holds.

    Raises:
        CheckpointError: the file holds no Wan2.1 decoder.
    """
    with open_tensors(model.vae) as source:
        sizes = read_vae_config(source.infos, config.vae, label=source.label)
        vae = WanVAE21(replace(sizes, encoder_dim=None))
        load_module(vae, source, dtype=mx.float32, prefix_filter=DECODER_HALF)
    return vae
