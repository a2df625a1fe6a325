"""The sizes of a model's networks, from the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_video.config import ModelConfig, VAEConfig
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.layouts.components import IMAGE_ENCODER, TINY_VAE, Component
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import list_optional, open_part
from mlx_video.loading.open_parts import open_text_encoder, open_transformer, open_vae
from mlx_video.loading.vae_halves import VAE_HALVES, Half
from mlx_video.planning.weight_bytes import WeightBytes, weigh
from mlx_video.variants.registry import find_variant
from mlx_video.weights.component_networks import find_network
from mlx_video.weights.names.vae_names import CONVERTED_RULES, read_vae_config
from mlx_video.weights.names.vae_shapes import vae_tensors
from mlx_video.weights.network import PLAIN, TransformerNetwork
from mlx_video.weights.renamed import RenamedTensors

Infos = tuple[TensorInfo, ...]
LOADED_VAE_BYTES = 4  # of a number: a VAE is float32 in memory whatever its file holds


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A model's networks, as their headers tell them.

    Attributes:
        config: of the model; the VAE's widths are those of its files.
        transformers: name → its tensors.
        text_encoder: bytes of its parts.
        parts: name of every component that this model has, unlike others → its bytes, and its sizes.
        network: what the transformers are.
    """

    config: ModelConfig
    transformers: Mapping[str, Infos]
    text_encoder: WeightBytes
    parts: Mapping[str, tuple[WeightBytes, Any]] = field(default_factory=dict)
    network: TransformerNetwork = PLAIN

    def image_tokens(self, num_images: int) -> int:
        """Tokens that cross-attention reads besides the text."""
        found = self.parts.get(IMAGE_ENCODER.name)
        return num_images * found[1].num_tokens if found else 0

    def vae_bytes(self, half: Half) -> int:
        """Bytes of the weights of a half of the VAE, once they are loaded."""
        shapes = vae_tensors(self.config.vae)
        return LOADED_VAE_BYTES * sum(
            math.prod(shape) for name, shape in shapes.items() if name.startswith(VAE_HALVES[half])
        )


def read_model_sizes(model: ModelFolder, config: ModelConfig) -> ModelSizes:
    """Read the headers of all files of a model.

    Raises:
        CheckpointError: a file is damaged or holds something else.
    """
    transformers = {}
    for name, path in model.transformers.items():
        with open_transformer(path) as source:
            transformers[name] = tuple(source.infos.values())
    with open_text_encoder(model.text_encoder) as source:
        text_encoder = weigh(source.infos.values())
    parts = {
        row.name: _read_part(model, row) for row in list_optional(model, config) if row.name in model.parts
    }
    whole = replace(config, vae=_read_vae(model, config))
    return ModelSizes(whole, transformers, text_encoder, parts, find_variant(config).network)


def read_vae_sizes(model: ModelFolder, config: ModelConfig) -> ModelSizes:
    """Read the headers of the decoders' files alone, for a run that only decodes.

    Raises:
        CheckpointError: a file is damaged or holds something else.
    """
    parts = {TINY_VAE.name: _read_part(model, TINY_VAE)} if TINY_VAE.name in model.parts else {}
    return ModelSizes(replace(config, vae=_read_vae(model, config)), {}, weigh(()), parts)


def _read_part(model: ModelFolder, row: Component) -> tuple[WeightBytes, Any]:
    with open_part(model, row) as source:
        sizes = find_network(row.name).read_converted_sizes(source.infos, label=source.label)
        return weigh(source.infos.values()), sizes


def _read_vae(model: ModelFolder, config: ModelConfig) -> VAEConfig:
    """The VAE with the widths of its files, of which a second one may hold the encoder."""
    found = []
    for path in (model.vae, model.vae_encoder):
        if path is not None:
            with open_vae(path) as file:
                source = RenamedTensors(file, CONVERTED_RULES)
                found.append(read_vae_config(source.infos, config.vae, label=source.label))
    encoders = [sizes.encoder_dim for sizes in found if sizes.encoder_dim is not None]
    return replace(found[0], encoder_dim=encoders[0] if encoders else None)
