"""Sizes of transformers, and of what steers them."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.config.size_ranges import check_sizes
from mlx_video.errors import ConfigError

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
        check_sizes("face", self)
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
        check_sizes("transformer", self)
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
class MotionControllerConfig:
    """Sizes of a motion controller: channels of the transformer beside it, and of its sinusoid."""

    dim: int = 1536
    freq_dim: int = 256
