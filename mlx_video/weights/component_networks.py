"""How each component of a model is spelt, converted, built and weighed.

The rows are of :mod:`mlx_video.layouts.components`. A transformer has only its spellings here: the rest comes
from the variant, see :mod:`mlx_video.weights.network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import mlx.nn as nn

from mlx_video.config import ModelConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.layouts.components import Component
from mlx_video.models.control.motion_controller import MotionController, motion_peak
from mlx_video.models.encoders.audio_encoder import Wav2Vec2Encoder
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder
from mlx_video.models.encoders.image_encoder_memory import image_encoder_peak
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.models.peak import Peak
from mlx_video.models.speech.speech_memory import audio_encoder_peak
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.models.vae.tiny import TinyDecoder
from mlx_video.weights import other_parts, spellings
from mlx_video.weights.names import (
    audio_encoder_names,
    image_encoder_names,
    motion_names,
    text_encoder_names,
    tiny_vae_names,
    vae_names,
)
from mlx_video.weights.rules import Move, Rule, Shape, plan_moves, target_shapes
from mlx_video.weights.spellings import Spelling
from mlx_video.weights.stored.empty_weights import check_token_table

Infos = Mapping[str, TensorInfo]


class ReadSizes(Protocol):
    """Reads a component's sizes from its tensors."""

    def __call__(self, infos: Infos, *, label: str) -> Any:
        """Read the sizes.

        Raises:
            CheckpointError: a tensor that tells a size is absent or misshapen, or it is another component.
        """


@dataclass(frozen=True, slots=True)
class Workload:
    """What decides the memory of a component at work.

    Attributes:
        number_bytes: of one number of its weights.
        num_images: that the user gave.
        latent_shape: of the video, (C, T, H, W).
        num_samples: of the sound that the user gave.
    """

    number_bytes: int
    num_images: int
    latent_shape: tuple[int, int, int, int]
    num_samples: int = 0


@dataclass(frozen=True, slots=True)
class ComponentNetwork:
    """The network of a component.

    Attributes:
        spellings: its names in files, foreign ones first.
        read_sizes: from tensors under the Wan original's names.
        read_converted_sizes: from a converted file.
        tensors: sizes → name and shape of every tensor, as the original has them.
        rules: sizes → original name → converted name and layout.
        build: sizes → the module without weights.
        describe: sizes → what an inspection calls it.
        describe_other: shows that it is another model's; "" for one that Wan may use.
        misfit: sizes, the model → why it serves another model; "" for one that serves this one.
        check: refuses tensors by more than names and shapes.
        store_as: the type asked for, in safetensors spelling → the one of the converted file.
        width: sizes → channels of its features.
        taken_width: the model → channels of the features that its transformer takes, None where it reads
            none. Without this function the component serves every model.
        stage: of a run, in which it works.
        called_by: the option of a run without which it is idle; "" where its stage alone decides.
        placement: whether it is released before the others of the stage begin, or stays beside them.
        peak: sizes → memory at work, beside its weights.
    """

    spellings: tuple[Spelling, ...]
    read_sizes: ReadSizes
    read_converted_sizes: ReadSizes
    tensors: Callable[[Any], dict[str, Shape]]
    rules: Callable[[Any], Sequence[Rule]]
    build: Callable[[Any], nn.Module]
    describe: Callable[[Any], str]
    describe_other: Callable[[Infos], str] = lambda infos: ""
    misfit: Callable[[Any, ModelConfig], str] = lambda sizes, config: ""
    check: Callable[[TensorSource], None] = lambda source: None
    store_as: Callable[[str], str] = lambda asked: asked
    width: Callable[[Any], int] | None = None
    taken_width: Callable[[ModelConfig], int | None] | None = None
    stage: str = ""
    called_by: str = ""
    placement: Literal["before", "beside"] = "beside"
    peak: Callable[[Any, Workload], Peak] = lambda sizes, work: Peak(0, 0)

    def feeds(self, config: ModelConfig) -> bool:
        """Whether a model's transformer takes the component's features."""
        return self.taken_width is not None and self.taken_width(config) is not None

    def serves(self, config: ModelConfig) -> bool:
        """Whether a model uses the component, by its transformer or otherwise."""
        return self.taken_width is None or self.feeds(config)

    def plan_moves(self, source: TensorSource, sizes: Any) -> tuple[Move, ...]:
        """Decide where each tensor of a source in the Wan original's names goes.

        Raises:
            CheckpointError: a tensor is missing, unknown or misshapen.
        """
        return plan_moves(source, self.rules(sizes), self.tensors(sizes))

    def parameters(self, sizes: Any) -> dict[str, Shape]:
        """Name and shape of every tensor of a converted file."""
        return target_shapes(self.tensors(sizes), self.rules(sizes))


def find_network(name: str) -> ComponentNetwork:
    """The network of a component."""
    return NETWORKS[name]


def is_missed(row: Component, config: ModelConfig) -> bool:
    """Whether a model's transformer cannot work without a component that others lack."""
    return not row.is_extra and find_network(row.name).feeds(config)


def check_width(row: Component, sizes: Any, config: ModelConfig, label: str, cure: str) -> None:
    """Refuse a component of another model: its features have other channels than the transformer takes, say.

    Args:
        row: of the component.
        sizes: of its network.
        config: of the model.
        label: names the file.
        cure: what to do.
    """
    network = find_network(row.name)
    if misfit := network.misfit(sizes, config):
        raise CheckpointError(f"{label}: {misfit}")
    if network.width is None or network.taken_width is None or row.width is None:
        return
    found, taken = network.width(sizes), network.taken_width(config)
    if found != taken:
        raise CheckpointError(
            f"{label}: {row.width[0]} is {found} wide, the transformer's {row.read_by[0]} takes {taken}. "
            f"They are of different models; {cure}"
        )


_TEXT_ENCODER = ComponentNetwork(
    spellings=spellings.TEXT_ENCODER,
    read_sizes=text_encoder_names.read_text_encoder_config,
    read_converted_sizes=text_encoder_names.read_text_encoder_config,
    tensors=text_encoder_names.text_encoder_tensors,
    rules=lambda sizes: text_encoder_names.WAN_RULES,
    build=UMT5Encoder,
    describe=lambda sizes: f"UMT5 of {sizes.num_layers} blocks, width {sizes.dim}, {sizes.vocab_size} tokens",
    describe_other=other_parts.describe_text_encoder,
    check=check_token_table,
    width=lambda sizes: sizes.dim,
    taken_width=lambda config: config.transformer.text_dim,
)

_IMAGE_ENCODER = ComponentNetwork(
    spellings=spellings.IMAGE_ENCODER,
    read_sizes=image_encoder_names.read_image_encoder_config,
    read_converted_sizes=image_encoder_names.read_converted_image_encoder_config,
    tensors=image_encoder_names.image_encoder_tensors,
    rules=image_encoder_names.wan_rules,
    build=CLIPImageEncoder,
    describe=lambda sizes: f"CLIP of width {sizes.width}",
    describe_other=other_parts.describe_image_encoder,
    # As the official code runs it, also where the rest is bfloat16, which is coarser.
    store_as=lambda asked: "F32" if asked == "F32" else "F16",
    width=lambda sizes: sizes.width,
    taken_width=lambda config: config.transformer.image_dim,
    stage="image",
    placement="before",
    peak=lambda sizes, work: image_encoder_peak(sizes, work.num_images, number_bytes=work.number_bytes),
)


def _width_for_motion(config: ModelConfig) -> int | None:
    """Channels of a transformer that a motion controller may serve; None for other models."""
    is_served = config.transformer.model_type in ("t2v", "vace") and not config.is_dual
    return config.transformer.dim if is_served else None


_AUDIO_ENCODER = ComponentNetwork(
    spellings=spellings.AUDIO_ENCODER,
    read_sizes=audio_encoder_names.read_audio_encoder_config,
    read_converted_sizes=audio_encoder_names.read_converted_audio_encoder_config,
    tensors=audio_encoder_names.audio_encoder_tensors,
    rules=lambda sizes: audio_encoder_names.WAN_RULES,
    build=Wav2Vec2Encoder,
    describe=lambda sizes: f"wav2vec 2.0 of {sizes.num_layers} blocks, width {sizes.width}",
    # Whatever is asked for, as the official code runs it.
    store_as=lambda asked: "F32",
    width=lambda sizes: sizes.width,
    taken_width=lambda config: config.transformer.audio_dim,
    stage="audio",
    called_by="input_audio",
    placement="before",
    peak=lambda sizes, work: audio_encoder_peak(sizes, work.num_samples, number_bytes=work.number_bytes),
)


_MOTION_CONTROLLER = ComponentNetwork(
    spellings=spellings.MOTION_CONTROLLER,
    read_sizes=motion_names.read_motion_controller_config,
    read_converted_sizes=motion_names.read_motion_controller_config,
    tensors=motion_names.motion_controller_tensors,
    rules=lambda sizes: spellings.KEEP,
    build=MotionController,
    describe=lambda sizes: f"motion controller for transformers of width {sizes.dim}",
    # Whatever is asked for: it is small, and its sinusoid reaches as far as that of timesteps.
    store_as=lambda asked: "F32",
    width=lambda sizes: sizes.dim,
    taken_width=_width_for_motion,
    stage="text",
    called_by="motion_bucket_id",
    placement="before",
    peak=lambda sizes, work: motion_peak(sizes),
)

_VAE = ComponentNetwork(
    spellings=spellings.VAE,
    read_sizes=vae_names.read_vae_config,
    read_converted_sizes=vae_names.read_vae_config,
    tensors=vae_names.vae_tensors,
    rules=vae_names.conversion_rules,
    build=WanVAE,
    describe=lambda sizes: f"VAE of {sizes.z_dim} latent channels",
    describe_other=other_parts.describe_vae,
    # Whatever is asked for: the decoder loses visible detail in half precision.
    store_as=lambda asked: "F32",
)

_TINY_VAE = ComponentNetwork(
    spellings=spellings.TINY_VAE,
    read_sizes=tiny_vae_names.read_tiny_vae_config,
    read_converted_sizes=tiny_vae_names.read_converted_tiny_vae_config,
    tensors=tiny_vae_names.tiny_vae_tensors,
    rules=lambda sizes: tiny_vae_names.WAN_RULES,
    build=TinyDecoder,
    describe=lambda sizes: f"tiny decoder of {sizes.z_dim} latent channels",
    # As it is published; it is float32 in memory.
    store_as=lambda asked: "F32" if asked == "F32" else "F16",
    misfit=tiny_vae_names.describe_misfit,
)

NETWORKS: Mapping[str, ComponentNetwork] = {
    "text_encoder": _TEXT_ENCODER,
    "image_encoder": _IMAGE_ENCODER,
    "audio_encoder": _AUDIO_ENCODER,
    "motion_controller": _MOTION_CONTROLLER,
    "vae": _VAE,
    "tiny_vae": _TINY_VAE,
}


def describe_other_part(component: str, infos: Infos) -> str:
    """What shows that a component is another model's; "" for one that Wan may use.

    Args:
        component: what its names say it is.
        infos: its tensors under the Wan original's names.
    """
    return find_network(component).describe_other(infos) if component in NETWORKS else ""


def as_original(
    source: TensorSource, component: str, extra_diffusers_rules: Sequence[Rule] = ()
) -> TensorSource:
    """The tensors of a component under the Wan original's names, without a prefix, in the original layout.

    The spelling is told by the names, not by the file's. What no spelling knows keeps its name.

    Args:
        source: the component's tensors; the caller closes it.
        component: what they should be.
        extra_diffusers_rules: of a transformer, for tensors that the plain one lacks.

    Raises:
        CheckpointError: two tensors would get the same name, or copies of one tensor differ.
    """
    if component in NETWORKS:
        return spellings.respell(source, find_network(component).spellings)
    return spellings.respell(source, spellings.spell_transformer(extra_diffusers_rules))
