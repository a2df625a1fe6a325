"""Build each network of a converted folder and fill it with its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_video.checkpoint.model_folder import CONFIG_FILE, ModelFolder, open_model_folder
from mlx_video.checkpoint.tensor_source import TensorSource, open_tensors
from mlx_video.config import ModelConfig, VAEConfig, config_from_json
from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.models.text_encoder import UMT5Encoder
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.vae_wan21 import WanVAE21
from mlx_video.weights.load import load_module
from mlx_video.weights.vae_names import read_vae_config

DECODER_HALF = ("decoder.", "conv2.")


def open_model(path: Path) -> tuple[ModelFolder, ModelConfig]:
    """Open a converted folder and read its config; no weight is read.

    Raises:
        CheckpointError: the folder is missing or incomplete.
        ConfigError: its config.json cannot be used.
    """
    folder = open_model_folder(path)
    return folder, config_from_json(folder.config, where=str(folder.path / CONFIG_FILE))


def check_weights(model: ModelFolder, config: ModelConfig) -> None:
    """Find a damaged or a wrong weight file before hours of work, from the headers alone.

    Raises:
        CheckpointError: a file is truncated or no weight file, or the VAE is another or lacks its decoder.
        ConfigError: config.json names another number of transformers than the folder holds.
    """
    if config.is_dual != (len(model.transformers) > 1):
        names = " and ".join(path.name for path in model.transformers.values())
        raise ConfigError(
            f"{model.path / CONFIG_FILE}: dual_model is {str(config.is_dual).lower()}, but the folder holds "
            f"{names}. Convert the model again."
        )
    for path in (*model.transformers.values(), model.text_encoder):
        open_tensors(path).close()
    with open_tensors(model.vae) as source:
        _read_decoder_sizes(source, config)


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
        vae = WanVAE21(_read_decoder_sizes(source, config))
        load_module(vae, source, dtype=mx.float32, prefix_filter=DECODER_HALF)
    return vae


def _read_decoder_sizes(source: TensorSource, config: ModelConfig) -> VAEConfig:
    sizes = read_vae_config(source.infos, config.vae, label=source.label)
    if sizes.decoder_dim is None:
        raise CheckpointError(
            f"{source.label}: decoder.head.0.gamma is missing, so it holds the encoder alone. "
            "Convert the model again."
        )
    return replace(sizes, encoder_dim=None)
