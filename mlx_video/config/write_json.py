"""A model's settings in the form of a converted folder's config.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mlx_video.config.encoders import TextEncoderConfig
from mlx_video.config.model import ModelConfig, QuantizationConfig, SamplingDefaults
from mlx_video.config.transformer import TransformerConfig


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a converted folder, in the order and spelling that MLX Wan folders share.

    Our own additions sit under the key "mlx_video", which other readers ignore.

    Source: Blaizzy/mlx-video, mlx_video/models/wan_2/config.py, the fields of its config dataclass.
    """
    return {
        "model_type": config.transformer.model_type,
        "model_version": config.model_version,
        **_transformer_sizes(config.transformer),
        "vae_stride": list(config.vae.stride),
        "vae_z_dim": config.vae.z_dim,
        "dual_model": config.is_dual,
        **_sampling_defaults(config.sampling, is_dual=config.is_dual),
        **_text_encoder_sizes(config.text_encoder),
        "mlx_video": _additions(config),
        **_quantization(config.quantization),
    }


def _transformer_sizes(network: TransformerConfig) -> dict[str, Any]:
    """Sizes of a plain transformer, and what is the same in all of them."""
    return {
        "patch_size": list(network.patch_size),
        "text_len": network.text_len,
        "in_dim": network.in_dim,
        "dim": network.dim,
        "ffn_dim": network.ffn_dim,
        "freq_dim": network.freq_dim,
        "text_dim": network.text_dim,
        "out_dim": network.out_dim,
        "num_heads": network.num_heads,
        "num_layers": network.num_layers,
        "window_size": [-1, -1],
        "qk_norm": True,
        "cross_attn_norm": True,
        "eps": network.eps,
    }


def _sampling_defaults(sampling: SamplingDefaults, *, is_dual: bool) -> dict[str, Any]:
    """What a run uses by default, with a guide scale of each expert for a model of two."""
    low, high = sampling.guide_scale
    return {
        "boundary": sampling.boundary,
        "sample_shift": sampling.shift,
        "sample_steps": sampling.steps,
        "sample_guide_scale": [low, high] if is_dual else low,
        "num_train_timesteps": sampling.num_train_timesteps,
        "sample_fps": sampling.fps,
        "frame_num": sampling.num_frames,
        "sample_neg_prompt": sampling.negative_prompt,
        "max_area": sampling.max_area,
    }


def _text_encoder_sizes(text: TextEncoderConfig) -> dict[str, Any]:
    return {
        "t5_vocab_size": text.vocab_size,
        "t5_dim": text.dim,
        "t5_dim_attn": text.dim_attn,
        "t5_dim_ffn": text.dim_ffn,
        "t5_num_heads": text.num_heads,
        "t5_num_layers": text.num_layers,
        "t5_num_buckets": text.num_buckets,
    }


def _additions(config: ModelConfig) -> dict[str, Any]:
    """What other writers of this file do not know."""
    network, sampling = config.transformer, config.sampling
    data: dict[str, Any] = {"variant": config.variant, "width": sampling.width, "height": sampling.height}
    if network.image_dim is not None:
        data |= {"image_dim": network.image_dim, "image_positions": network.image_positions}
    if sampling.recipe:
        data["recipe"] = sampling.recipe
    data |= _control_sizes(network)
    if config.vae.output_scale != 1:
        data["vae_output_scale"] = config.vae.output_scale
    return data


def _control_sizes(network: TransformerConfig) -> dict[str, Any]:
    """Sizes of what a transformer has beyond the plain one."""
    sizes: dict[str, Any] = {}
    if network.vace_layers:
        sizes |= {"vace_layers": list(network.vace_layers), "vace_in_dim": network.vace_in_dim}
    if network.mot_layers:
        sizes["mot_layers"] = list(network.mot_layers)
    for name in ("reference_dim", "camera_dim", "time_dim"):
        if (size := getattr(network, name)) is not None:
            sizes[name] = size
    if network.face is not None:
        sizes["face"] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(network.face).items()
        }
    if network.audio_dim is not None:
        sizes |= {"audio_dim": network.audio_dim, "audio_layers": list(network.audio_layers)}
        sizes["pose_dim"] = network.pose_dim
    return sizes


def _quantization(quantization: QuantizationConfig | None) -> dict[str, Any]:
    if quantization is None:
        return {}
    return {"quantization": {"group_size": quantization.group_size, "bits": quantization.bits}}
