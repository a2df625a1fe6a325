"""Sizes of what reads texts, images and sounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlx_video.config.size_ranges import check_sizes
from mlx_video.errors import ConfigError

# Colours of the image encoder's training images. Source: openai/CLIP clip/clip.py, _transform.
CLIP_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


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
        check_sizes("text encoder", self)


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
        check_sizes("image encoder", self)
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
        check_sizes("audio encoder", self)
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
