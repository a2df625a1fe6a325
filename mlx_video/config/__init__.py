"""Frozen settings of every component, and their form in a converted folder's config.json."""

from mlx_video.config.encoders import (
    CLIP_PIXEL_MEAN,
    CLIP_PIXEL_STD,
    AudioEncoderConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
)
from mlx_video.config.model import DEFAULT_NEGATIVE_PROMPT, ModelConfig, QuantizationConfig, SamplingDefaults
from mlx_video.config.read_json import FOREIGN_KEYS, config_from_json
from mlx_video.config.transformer import FACE_SIZE, FaceConfig, MotionControllerConfig, TransformerConfig
from mlx_video.config.vae import (
    WAN21_LATENT_MEAN,
    WAN21_LATENT_STD,
    WAN21_VAE,
    WAN22_LATENT_MEAN,
    WAN22_LATENT_STD,
    WAN22_VAE,
    TinyVAEConfig,
    VAEConfig,
    find_vae_config,
)
from mlx_video.config.write_json import config_to_json

__all__ = [
    "CLIP_PIXEL_MEAN",
    "CLIP_PIXEL_STD",
    "DEFAULT_NEGATIVE_PROMPT",
    "FACE_SIZE",
    "FOREIGN_KEYS",
    "WAN21_LATENT_MEAN",
    "WAN21_LATENT_STD",
    "WAN21_VAE",
    "WAN22_LATENT_MEAN",
    "WAN22_LATENT_STD",
    "WAN22_VAE",
    "AudioEncoderConfig",
    "FaceConfig",
    "ImageEncoderConfig",
    "ModelConfig",
    "MotionControllerConfig",
    "QuantizationConfig",
    "SamplingDefaults",
    "TextEncoderConfig",
    "TinyVAEConfig",
    "TransformerConfig",
    "VAEConfig",
    "config_from_json",
    "config_to_json",
    "find_vae_config",
]
