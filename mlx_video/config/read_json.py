"""A model's settings read from a converted folder's config.json, ours or another tool's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_video.config.encoders import TextEncoderConfig
from mlx_video.config.model import ModelConfig, QuantizationConfig, SamplingDefaults
from mlx_video.config.transformer import FaceConfig, TransformerConfig
from mlx_video.config.vae import WAN21_VAE, VAEConfig, find_vae_config
from mlx_video.errors import ConfigError

# Keys that forks of the converted format add; they say nothing that a run needs.
FOREIGN_KEYS = frozenset(
    "audio_dim num_audio_token audio_inject_layers cond_dim enable_adain adain_mode enable_framepack "
    "framepack_drop_mode enable_motioner motion_token_num trainable_token_pos_emb add_last_motion "
    "zero_timestep zero_init fastwan_dmd window_size qk_norm cross_attn_norm".split()
)


def config_from_json(data: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
    """Read a converted folder's config.json, ours or another tool's.

    Args:
        data: the parsed file.
        where: names the file in messages.

    Returns:
        The config; the VAE's widths and what other tools leave out hold their defaults.

    Raises:
        ConfigError: a key is missing, unknown (in a file of ours), or of the wrong kind.
    """
    reader = _ConfigReader(data, where)
    config = reader.read()
    if "mlx_video" in data:
        reader.refuse_unknown_keys()
    return config


class _ConfigReader:
    """Takes named values from a parsed config.json and remembers which it took."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        if not isinstance(data, Mapping):
            raise ConfigError(
                f"{where}: holds {type(data).__name__}, not an object. Convert the model again."
            )
        self.data, self.where = data, where
        self.taken: set[str] = {"mlx_video", "quantization"}

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        self.taken.add(key)
        value = self.data.get(key, default)
        if value is None:
            raise ConfigError(f"{self.where}: the key {key!r} is missing. Convert the model again.")
        if kind in (int, float) and _is_number(value) and (kind is float or value == int(value)):
            return kind(value)
        if kind in (str, bool) and isinstance(value, kind):
            return value
        raise self.wrong(key, f"{value!r}, which is no {kind.__name__}")

    def take_count(self, key: str, default: int | None = None, *, lowest: int = 1) -> int:
        """A whole number that cannot be less than `lowest`."""
        value: int = self.take(key, int, default)
        if value < lowest:
            raise self.wrong(key, f"{value}, at least {lowest} is expected")
        return value

    def take_optional_count(self, key: str) -> int | None:
        """A positive whole number; None where there is none."""
        return self.take_count(key) if key in self.data else None

    def take_counts(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers from 0 on; empty where there is none."""
        self.taken.add(key)
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
            raise self.wrong(key, f"{value!r}, which is no list of whole numbers")
        return tuple(value)

    def take_face(self) -> FaceConfig | None:
        """Sizes of what reads a face; None where nothing does."""
        self.taken.add("face")
        if "face" not in self.data:
            return None
        reader = _ConfigReader(self.data["face"], f"{self.where}, 'face'")
        return FaceConfig(
            layers=reader.take_counts("layers"),
            channels=reader.take_counts("channels"),
            style_dim=reader.take_count("style_dim"),
            num_directions=reader.take_count("num_directions"),
            motion_dim=reader.take_count("motion_dim"),
            hidden_dim=reader.take_count("hidden_dim"),
            num_heads=reader.take_count("num_heads"),
            pose_dim=reader.take_count("pose_dim"),
        )

    def take_triple(self, key: str, default: tuple[int, int, int]) -> tuple[int, int, int]:
        """Three positive whole numbers."""
        self.taken.add(key)
        value = self.data.get(key, default)
        match value:
            case [int(first), int(second), int(third)] if min(value) > 0:
                return (first, second, third)
        raise self.wrong(key, f"{value!r}, which is not three positive whole numbers")

    def wrong(self, key: str, what: str) -> ConfigError:
        """The error for a value that no converter writes."""
        return ConfigError(f"{self.where}: {key!r} is {what}. Convert the model again.")

    def read(self) -> ModelConfig:
        extra = _ConfigReader(self.data.get("mlx_video", {}), f"{self.where}, 'mlx_video'")
        is_dual = self.take("dual_model", bool, False)
        return ModelConfig(
            variant=extra.take("variant", str, ""),
            model_version=self.take("model_version", str, "2.1"),
            transformer=self.read_transformer(extra),
            text_encoder=self.read_text_encoder(),
            vae=self.read_vae(extra),
            sampling=self.read_sampling(extra),
            is_dual=is_dual,
            quantization=self.read_quantization(),
        )

    def read_transformer(self, extra: _ConfigReader) -> TransformerConfig:
        names = ("dim", "ffn_dim", "num_heads", "num_layers")
        required = {name: self.take_count(name) for name in names}
        return TransformerConfig(
            **required,
            model_type=self.take("model_type", str, "t2v"),
            in_dim=self.take_count("in_dim", 16),
            out_dim=self.take_count("out_dim", 16),
            text_dim=self.take_count("text_dim", 4096),
            text_len=self.take_count("text_len", 512),
            freq_dim=self.take_count("freq_dim", 256),
            patch_size=self.take_triple("patch_size", (1, 2, 2)),
            eps=self.take("eps", float, 1e-6),
            image_dim=extra.take_optional_count("image_dim"),
            image_positions=extra.take_count("image_positions", 0, lowest=0),
            vace_layers=extra.take_counts("vace_layers"),
            vace_in_dim=extra.take_count("vace_in_dim", 0, lowest=0),
            reference_dim=extra.take_optional_count("reference_dim"),
            camera_dim=extra.take_optional_count("camera_dim"),
            audio_dim=extra.take_optional_count("audio_dim"),
            audio_layers=extra.take_counts("audio_layers"),
            pose_dim=extra.take_count("pose_dim", 0, lowest=0),
            time_dim=extra.take_optional_count("time_dim"),
            face=extra.take_face(),
            mot_layers=extra.take_counts("mot_layers"),
        )

    def read_text_encoder(self) -> TextEncoderConfig:
        default = TextEncoderConfig()
        names = ("vocab_size", "dim", "dim_attn", "dim_ffn", "num_heads", "num_layers", "num_buckets")
        return TextEncoderConfig(
            **{name: self.take_count(f"t5_{name}", getattr(default, name)) for name in names}
        )

    def read_vae(self, extra: _ConfigReader) -> VAEConfig:
        z_dim = self.take_count("vae_z_dim", WAN21_VAE.z_dim)
        try:
            config = find_vae_config(z_dim)
        except ConfigError as error:
            raise ConfigError(f"{self.where}: 'vae_z_dim': {error}") from error
        stride = self.take_triple("vae_stride", config.stride)
        if stride != config.stride:
            raise self.wrong(
                "vae_stride", f"{list(stride)}, VAEs of {z_dim} channels have {list(config.stride)}"
            )
        return replace(config, output_scale=extra.take_count("vae_output_scale", 1))

    def read_sampling(self, extra: _ConfigReader) -> SamplingDefaults:
        default = SamplingDefaults()
        return SamplingDefaults(
            steps=self.take_count("sample_steps", default.steps),
            shift=self.take("sample_shift", float, default.shift),
            guide_scale=self.read_guide_scale(),
            boundary=self.take("boundary", float, default.boundary),
            fps=self.take_count("sample_fps", default.fps),
            num_frames=self.take_count("frame_num", default.num_frames),
            negative_prompt=self.take("sample_neg_prompt", str, default.negative_prompt),
            num_train_timesteps=self.take_count("num_train_timesteps", default.num_train_timesteps),
            max_area=self.take_count("max_area", default.max_area, lowest=0),
            width=extra.take_count("width", default.width),
            height=extra.take_count("height", default.height),
            recipe=extra.take("recipe", str, ""),
        )

    def read_guide_scale(self) -> tuple[float, float]:
        value = self.data.get("sample_guide_scale", 5.0)
        self.taken.add("sample_guide_scale")
        pair = value if isinstance(value, (list, tuple)) else (value, value)
        if len(pair) != 2 or not all(_is_number(scale) for scale in pair):
            raise self.wrong("sample_guide_scale", f"{value!r}, which is neither a number nor [low, high]")
        return float(pair[0]), float(pair[1])

    def read_quantization(self) -> QuantizationConfig | None:
        value = self.data.get("quantization")
        if value is None:
            return None
        if not isinstance(value, Mapping) or not {"bits", "group_size"} <= value.keys():
            raise self.wrong("quantization", f"{value!r}, without bits or group_size")
        reader = _ConfigReader(value, f"{self.where}, 'quantization'")
        return QuantizationConfig(bits=reader.take_count("bits"), group_size=reader.take_count("group_size"))

    def refuse_unknown_keys(self) -> None:
        unknown = sorted(self.data.keys() - self.taken - FOREIGN_KEYS)
        if unknown:
            raise ConfigError(
                f"{self.where}: unknown key {unknown[0]!r}. A newer mlx-video wrote it, or it is mistyped; "
                "update mlx-video or remove the key."
            )


def _is_number(value: object) -> bool:
    """Whether a JSON value is a finite number; Python's reader also knows NaN and Infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
