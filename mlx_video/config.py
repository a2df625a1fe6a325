"""Frozen settings of every component, and their form in a converted folder's config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mlx_video.errors import ConfigError
from mlx_video.limits import MOST_BLOCKS, MOST_FRAMES, MOST_PIXELS, MOST_STEPS, WIDEST

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
# Source: Wan2.2 wan/modules/vae2_2.py, Wan2_2_VAE.
WAN22_LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
WAN22_LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip


# Colours of the image encoder's training images. Source: openai/CLIP clip/clip.py, _transform.
CLIP_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


_SIZES = {
    "num_layers": (1, MOST_BLOCKS),
    "vocab_size": (1, 2**24),
    "text_len": (1, 2**16),
    "image_size": (1, 2**14),
    "patch_size": (1, 64),
    "image_positions": (0, 2**16),
    "vace_in_dim": (0, WIDEST),
    "pose_dim": (0, WIDEST),
    "eps": (1e-20, 0.1),
}
"""Least and most of sizes; every other one is between 1 and WIDEST."""


def _check_sizes(owner: str, sizes: Any) -> None:
    """Refuse sizes that no network has, before one is built of them.

    Raises:
        ConfigError: a size is out of its range.
    """
    for field_of in fields(sizes):
        name, value = field_of.name, getattr(sizes, field_of.name)
        least, most = _SIZES.get(name, (1, WIDEST))
        for number in value if name == "patch_size" and isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not least <= number <= most:
                raise ConfigError(
                    f"{owner}: {name} is {number:g}, networks have {least:g} to {most:,}. "
                    "Check config.json against the model's page."
                )


FACE_SIZE = 512
"""Pixels of a side of the faces that Animate reads."""


@dataclass(frozen=True, slots=True)
class FaceConfig:
    """Sizes of what lets a transformer follow a face and poses.

    `layers` are the indices of the blocks behind which the tokens read the face. `channels` are those of the
    motion encoder, at each size of the face from the whole down to 4 pixels a side; `style_dim` is the width
    of its linear layers, `num_directions` what they end in, `motion_dim` the width of its result.
    `hidden_dim` is that of each of the face encoder's `num_heads` groups. `pose_dim` counts the latent
    channels of the poses.
    """

    layers: tuple[int, ...] = tuple(range(0, 40, 5))
    channels: tuple[int, ...] = (32, 64, 128, 256, 512, 512, 512, 512)
    style_dim: int = 512
    num_directions: int = 20
    motion_dim: int = 512
    hidden_dim: int = 1024
    num_heads: int = 4
    pose_dim: int = 16

    def __post_init__(self) -> None:
        _check_sizes("face", self)
        if 4 << (len(self.channels) - 1) != FACE_SIZE or min(self.channels) < 1:
            raise ConfigError(
                f"face: channels {list(self.channels)}, expected 8 positive numbers. "
                "Check config.json against the model's page."
            )


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes of one transformer. Widths are channels; `text_len` and the RoPE grid count tokens.

    `image_dim` is the width of the image features that cross-attention reads besides the text, None without
    that branch. `image_positions` counts the image tokens that have a position of their own, 0 without such.
    `vace_layers` are the indices of the blocks behind which a hint of VACE is added, and `vace_in_dim` the
    channels of its context; none and 0 without VACE. `reference_dim` is the number of latent channels of a
    reference image, `camera_dim` that of a packed camera path; None without these networks. `time_dim` is the
    width of time features that every block widens by a layer of its own; None where all share one table.
    `audio_dim` is the width of the sound features that speech-to-video reads, `audio_layers` are the indices
    of the blocks behind which tokens attend to them, and `pose_dim` the latent channels of a pose video.
    `mot_layers` are the indices of the blocks that have an expert for a reference video. `face` is None for
    models that read no face.
    """

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
    image_dim: int | None = None
    image_positions: int = 0
    vace_layers: tuple[int, ...] = ()
    vace_in_dim: int = 0
    reference_dim: int | None = None
    camera_dim: int | None = None
    audio_dim: int | None = None
    audio_layers: tuple[int, ...] = ()
    pose_dim: int = 0
    time_dim: int | None = None
    face: FaceConfig | None = None
    mot_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_sizes("transformer", self)
        if self.num_heads < 1 or self.dim % self.num_heads:
            raise ConfigError(
                f"transformer: dim {self.dim} is no multiple of num_heads {self.num_heads}. "
                "Check config.json against the model's page."
            )
        layers = self.vace_layers
        if layers and (layers[0] != 0 or sorted({*layers}) != [*layers] or layers[-1] >= self.num_layers):
            raise ConfigError(
                f"transformer: VACE layers {list(layers)} must rise from 0 within the {self.num_layers} "
                "blocks. Check config.json against the model's page."
            )
        heard = self.audio_layers
        if heard and (sorted({*heard}) != [*heard] or heard[-1] >= self.num_layers):
            raise ConfigError(
                f"transformer: audio layers {list(heard)} must rise within the {self.num_layers} blocks. "
                "Check config.json against the model's page."
            )
        experts = self.mot_layers
        if experts and (sorted({*experts}) != [*experts] or experts[-1] >= self.num_layers):
            raise ConfigError(
                f"transformer: blocks {list(experts)} with an expert must rise within the {self.num_layers} "
                "blocks. Check config.json against the model's page."
            )
        if self.face and not {*self.face.layers} <= {*range(self.num_layers)}:
            raise ConfigError(
                f"transformer: the face is read behind blocks {list(self.face.layers)}, but there are "
                f"{self.num_layers}. Check config.json against the model's page."
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

    def __post_init__(self) -> None:
        _check_sizes("text encoder", self)


@dataclass(frozen=True, slots=True)
class ImageEncoderConfig:
    """Sizes of the CLIP visual tower.

    `num_layers` counts the blocks that run: Wan takes the features before the tower's last block.
    `image_size` and `patch_size` are pixels of a side.
    """

    width: int = 1280
    mlp_width: int = 5120
    num_heads: int = 16
    num_layers: int = 31
    image_size: int = 224
    patch_size: int = 14

    def __post_init__(self) -> None:
        _check_sizes("image encoder", self)
        if self.num_heads < 1 or self.width % self.num_heads:
            raise ConfigError(
                f"image encoder: width {self.width} is no multiple of num_heads {self.num_heads}. "
                "Fetch the file again."
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of one image: its patches, and one for the whole."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, slots=True)
class AudioEncoderConfig:
    """Sizes of a wav2vec 2.0 encoder.

    `conv_kernels` and `conv_strides` are samples, or features of the layer before, that each convolution
    reads and moves on by. `position_kernel` counts features, `position_groups` splits the channels.
    """

    width: int = 1024
    mlp_width: int = 4096
    num_heads: int = 16
    num_layers: int = 24
    conv_width: int = 512
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16

    def __post_init__(self) -> None:
        _check_sizes("audio encoder", self)
        for name in ("num_heads", "position_groups"):
            if self.width % getattr(self, name):
                raise ConfigError(
                    f"audio encoder: width {self.width} is no multiple of {name} {getattr(self, name)}. "
                    "Fetch the file again."
                )

    @property
    def hop(self) -> int:
        """Samples from one feature to the next."""
        return math.prod(self.conv_strides)

    @property
    def reach(self) -> int:
        """Samples that a feature is made of."""
        reach = 1
        for kernel, stride in zip(self.conv_kernels[::-1], self.conv_strides[::-1], strict=True):
            reach = (reach - 1) * stride + kernel
        return reach

    def count_features(self, num_samples: int) -> int:
        """Features that a sound has."""
        return max(0, (num_samples - self.reach) // self.hop + 1)


@dataclass(frozen=True, slots=True)
class MotionControllerConfig:
    """Sizes of a motion controller: channels of the transformer beside it, and of its sinusoid."""

    dim: int = 1536
    freq_dim: int = 256


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """Sizes and latent statistics of a video autoencoder.

    `encoder_dim` and `decoder_dim` are the widths of the first encoder and the last decoder stage; the files
    do not state them, so they are read from tensor shapes. None stands for a half that the file lacks.
    `output_scale` is how many times wider and higher than the video's size the decoder makes its frames.
    """

    z_dim: int = 16
    stride: tuple[int, int, int] = (4, 8, 8)
    encoder_dim: int | None = 96
    decoder_dim: int | None = 96
    latent_mean: tuple[float, ...] = WAN21_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN21_LATENT_STD
    output_scale: int = 1

    def __post_init__(self) -> None:
        if not self.z_dim == len(self.latent_mean) == len(self.latent_std):
            raise ConfigError(
                f"vae: {self.z_dim} latent channels, but {len(self.latent_mean)} means and "
                f"{len(self.latent_std)} standard deviations."
            )


WAN21_VAE = VAEConfig()
WAN22_VAE = VAEConfig(
    z_dim=48,
    stride=(4, 16, 16),
    encoder_dim=160,
    decoder_dim=256,
    latent_mean=WAN22_LATENT_MEAN,
    latent_std=WAN22_LATENT_STD,
)


def find_vae_config(z_dim: int) -> VAEConfig:
    """The published VAE whose latents have `z_dim` channels, with its published widths.

    Raises:
        ConfigError: there is none.
    """
    for config in (WAN21_VAE, WAN22_VAE):
        if config.z_dim == z_dim:
            return config
    raise ConfigError(
        f"vae: {z_dim} latent channels; this version knows VAEs of {WAN21_VAE.z_dim} (Wan2.1) and "
        f"{WAN22_VAE.z_dim} (Wan2.2 TI2V-5B). Use a checkpoint of one of these."
    )


@dataclass(frozen=True, slots=True)
class TinyVAEConfig:
    """Sizes of a tiny decoder.

    `widths` are the channels of its three stages and of what goes into the last convolution. `patch_size` is
    the side, in pixels, of the squares that come out of that.
    """

    z_dim: int = 16
    patch_size: int = 1
    widths: tuple[int, int, int, int] = (256, 128, 64, 64)


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a run uses when the user does not say otherwise.

    `guide_scale` is (low noise, high noise); both are equal for a single transformer. `max_area` counts
    pixels, 0 for no limit. `width` and `height` are the size of the first example in the official README.
    `recipe` names the recipe of distilled models in `sampling.recipes`; "" for the official one.
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
    recipe: str = ""

    def __post_init__(self) -> None:
        scales, pixels = self.guide_scale, self.width * self.height
        ranges = {
            "steps": (self.steps, 1, MOST_STEPS),
            "shift": (self.shift, 1e-6, 1e6),
            "guide scale": (min(scales), 0, 1e6),
            "largest guide scale": (max(scales), 0, 1e6),
            "boundary": (self.boundary, 0, 1),
            "frames a second": (self.fps, 1, 1000),
            "frames": (self.num_frames, 1, MOST_FRAMES),
            "training timesteps": (self.num_train_timesteps, 1, 10**6),
            "pixels": (pixels, 1, MOST_PIXELS),
            "largest area": (self.max_area, 0, MOST_PIXELS),
        }
        for name, (value, least, most) in ranges.items():
            if not least <= value <= most:
                raise ConfigError(
                    f"sampling: {name} {value:g}, between {least:g} and {most:,} is expected. "
                    "Check config.json, or convert the model again."
                )


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
    if network.image_dim is not None:
        image_sizes = {"image_dim": network.image_dim, "image_positions": network.image_positions}
        data["mlx_video"] |= image_sizes
    if sampling.recipe:
        data["mlx_video"]["recipe"] = sampling.recipe
    data["mlx_video"] |= _control_sizes(network)
    if vae.output_scale != 1:
        data["mlx_video"]["vae_output_scale"] = vae.output_scale
    if config.quantization:
        data["quantization"] = {
            "group_size": config.quantization.group_size,
            "bits": config.quantization.bits,
        }
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
