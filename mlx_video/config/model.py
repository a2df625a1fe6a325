"""All settings of a model: those of its components, and what its runs use by default."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlx_video.config.encoders import TextEncoderConfig
from mlx_video.config.transformer import TransformerConfig
from mlx_video.config.vae import VAEConfig
from mlx_video.errors import ConfigError
from mlx_video.limits import MOST_FRAMES, MOST_PIXELS, MOST_STEPS

DEFAULT_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)


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
