"""Frozen settings of every component, and their form in a converted folder's config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_video.errors import ConfigError

DEFAULT_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)

# Per-channel statistics of the training latents. Source: Wan2.1 wan/modules/vae.py, WanVAE.
WAN21_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN21_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes of one transformer. Widths are channels; `text_len` and the RoPE grid count tokens."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    model_type: str = "t2v"
    in_dim: int = 16
    out_dim: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.dim % self.num_heads:
            raise ConfigError(
                f"transformer: dim {self.dim} is no multiple of num_heads {self.num_heads}. "
                "Check config.json against the model's page."
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads


@dataclass(frozen=True, slots=True)
class TextEncoderConfig:
    """Sizes of the UMT5 encoder; every block has its own relative-position table."""

    vocab_size: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """Sizes and latent statistics of a video autoencoder.

    `encoder_dim` and `decoder_dim` are the widths of the first encoder and the last decoder stage; the files
    do not state them, so they are read from tensor shapes. None stands for a half that the file lacks.
    """

    z_dim: int = 16
    stride: tuple[int, int, int] = (4, 8, 8)
    encoder_dim: int | None = 96
    decoder_dim: int | None = 96
    latent_mean: tuple[float, ...] = WAN21_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN21_LATENT_STD

    def __post_init__(self) -> None:
        if not self.z_dim == len(self.latent_mean) == len(self.latent_std):
            raise ConfigError(
                f"vae: {self.z_dim} latent channels, but {len(self.latent_mean)} means and "
                f"{len(self.latent_std)} standard deviations."
            )


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a run uses when the user does not say otherwise.

    `guide_scale` is (low noise, high noise); both are equal for a single transformer. `max_area` counts
    pixels, 0 for no limit. `width` and `height` are the size of the first example in the official README.
    """

    steps: int = 50
    shift: float = 5.0
    guide_scale: tuple[float, float] = (5.0, 5.0)
    boundary: float = 0.0
    fps: int = 16
    num_frames: int = 81
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    num_train_timesteps: int = 1000
    max_area: int = 0
    width: int = 832
    height: int = 480


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """Affine quantization of the blocks' linear layers."""

    bits: int = 4
    group_size: int = 64


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything a converted folder's config.json says."""

    variant: str
    model_version: str
    transformer: TransformerConfig
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    is_dual: bool = False
    quantization: QuantizationConfig | None = None


# Keys that forks of the converted format add; they say nothing that a run needs.
FOREIGN_KEYS = frozenset(
    "audio_dim num_audio_token audio_inject_layers cond_dim enable_adain adain_mode enable_framepack "
    "framepack_drop_mode enable_motioner motion_token_num trainable_token_pos_emb add_last_motion "
    "zero_timestep zero_init fastwan_dmd window_size qk_norm cross_attn_norm".split()
)


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a converted folder, in the order and spelling that MLX Wan folders share.

    Our own additions sit under the key "mlx_video", which other readers ignore.

    Source: Blaizzy/mlx-video, mlx_video/models/wan_2/config.py, the fields of its config dataclass.
    """
    network, text, vae, sampling = config.transformer, config.text_encoder, config.vae, config.sampling
    low, high = sampling.guide_scale
    data: dict[str, Any] = {
        "model_type": network.model_type,
        "model_version": config.model_version,
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
        "vae_stride": list(vae.stride),
        "vae_z_dim": vae.z_dim,
        "dual_model": config.is_dual,
        "boundary": sampling.boundary,
        "sample_shift": sampling.shift,
        "sample_steps": sampling.steps,
        "sample_guide_scale": [low, high] if config.is_dual else low,
        "num_train_timesteps": sampling.num_train_timesteps,
        "sample_fps": sampling.fps,
        "frame_num": sampling.num_frames,
        "sample_neg_prompt": sampling.negative_prompt,
        "max_area": sampling.max_area,
        "t5_vocab_size": text.vocab_size,
        "t5_dim": text.dim,
        "t5_dim_attn": text.dim_attn,
        "t5_dim_ffn": text.dim_ffn,
        "t5_num_heads": text.num_heads,
        "t5_num_layers": text.num_layers,
        "t5_num_buckets": text.num_buckets,
        "mlx_video": {"variant": config.variant, "width": sampling.width, "height": sampling.height},
    }
    if config.quantization:
        data["quantization"] = {
            "group_size": config.quantization.group_size,
            "bits": config.quantization.bits,
        }
    return data


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
            transformer=self.read_transformer(),
            text_encoder=self.read_text_encoder(),
            vae=self.read_vae(),
            sampling=self.read_sampling(extra),
            is_dual=is_dual,
            quantization=self.read_quantization(),
        )

    def read_transformer(self) -> TransformerConfig:
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
        )

    def read_text_encoder(self) -> TextEncoderConfig:
        default = TextEncoderConfig()
        names = ("vocab_size", "dim", "dim_attn", "dim_ffn", "num_heads", "num_layers", "num_buckets")
        return TextEncoderConfig(
            **{name: self.take_count(f"t5_{name}", getattr(default, name)) for name in names}
        )

    def read_vae(self) -> VAEConfig:
        z_dim = self.take("vae_z_dim", int, 16)
        default = VAEConfig()
        stride = self.take_triple("vae_stride", default.stride)
        if z_dim != len(WAN21_LATENT_MEAN):
            raise ConfigError(
                f"{self.where}: vae_z_dim is {z_dim}; this version reads VAEs of {len(WAN21_LATENT_MEAN)} "
                "latent channels (Wan2.1). Wan2.2 TI2V-5B is not supported yet."
            )
        if stride != default.stride:
            raise self.wrong(
                "vae_stride", f"{list(stride)}, VAEs of {z_dim} channels have {list(default.stride)}"
            )
        return default

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
