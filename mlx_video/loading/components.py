"""Build each network of a converted folder and fill it with its weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import ModelConfig, config_from_json
from mlx_video.errors import ConfigError, MissingPartError
from mlx_video.events import Work
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.hub.fetch import fetch_folder
from mlx_video.layouts.components import (
    AUDIO_ENCODER,
    IMAGE_ENCODER,
    MOTION_CONTROLLER,
    TINY_VAE,
    Component,
    list_parts,
)
from mlx_video.layouts.folder_layout import CONFIG_FILE, recognise_layout
from mlx_video.layouts.model_folder import ModelFolder, open_model_folder
from mlx_video.loading.fastvideo_model import open_fastvideo_model
from mlx_video.loading.foreign_folder import (
    read_foreign_config,
    read_text_encoder_sizes,
    with_output_scale,
)
from mlx_video.loading.model_parts import NO_PARTS, ModelParts, find_parts
from mlx_video.loading.open_parts import open_component, open_text_encoder, open_transformer
from mlx_video.loading.vae_halves import check_vae_decoder
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.read import AdapterSet
from mlx_video.models.control.motion_controller import MotionController
from mlx_video.models.encoders.audio_encoder import Wav2Vec2Encoder
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.models.vae.tiny import TinyDecoder
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.request import LoraMode
from mlx_video.variants.registry import find_variant
from mlx_video.weights.component_networks import check_width, find_network, is_missed
from mlx_video.weights.load import fit_module, load_module
from mlx_video.weights.stored.empty_weights import check_token_table


def open_model(path: Path, parts: ModelParts = NO_PARTS) -> tuple[ModelFolder, ModelConfig]:
    """Open a converted folder, or FastVideo's, and read its config; no weight is read.

    In a folder of another tool the headers of the weights complete config.json, and correct it.

    Args:
        path: the folder.
        parts: what takes the place of its own components, from :func:`find_parts`.

    Raises:
        CheckpointError: the folder is missing or incomplete.
        ConfigError: its config.json cannot be used.
    """
    if path.is_dir() and recognise_layout(path) == "fastvideo":
        folder, config = open_fastvideo_model(path, parts)
        return folder, _with_sizes(folder, config, ("text_encoder", "vae"))
    folder = open_model_folder(path, parts.given).with_parts(parts.given)
    if "mlx_video" in folder.config:
        config = config_from_json(folder.config, where=str(folder.path / CONFIG_FILE))
    else:
        config, notices = read_foreign_config(folder)
        folder = replace(folder, notices=notices)
    return folder, _with_sizes(folder, config, parts.given)


def open_named_model(
    place: Path, revision: str | None, named: ModelParts
) -> Work[tuple[ModelFolder, ModelConfig]]:
    """Open a model as a user names it, downloaded where it is on the Hub; no weight is read.

    Args:
        place: a folder, or owner/name of a repository.
        revision: of the repository; None for its main branch.
        named: components in place of the model's own, as the user names them.

    Yields:
        What is downloaded, with its progress.

    Raises:
        CheckpointError, ConfigError: as :func:`open_model`, or something cannot be had.
        RequestError: a component is missing or something else, or a revision is given for a folder.
    """
    path = yield from fetch_folder(place, revision, "run", named.given)
    return open_model(path, (yield from find_parts(named)))


def _with_sizes(folder: ModelFolder, config: ModelConfig, names: Collection[str]) -> ModelConfig:
    """The config with what no config.json says of some components: of those from elsewhere."""
    if "text_encoder" in names:
        config = replace(config, text_encoder=read_text_encoder_sizes(folder))
    return replace(config, vae=with_output_scale(folder, config.vae)) if "vae" in names else config


def check_weights(model: ModelFolder, config: ModelConfig) -> None:
    """Find a damaged or a wrong weight file before hours of work, from the headers and a few rows alone.

    Raises:
        CheckpointError: a file is truncated or does not hold what config.json describes, the VAE is another
            or lacks its decoder, an image encoder is needed and is absent or another, or the table of tokens
            is empty.
        ConfigError: config.json names another number of transformers than the folder holds, or another
            quantization.
    """
    if config.is_dual != (len(model.transformers) > 1):
        names = " and ".join(path.name for path in model.transformers.values())
        raise ConfigError(
            f"{model.path / CONFIG_FILE}: dual_model is {str(config.is_dual).lower()}, but the folder holds "
            f"{names}. Convert the model again."
        )
    network = find_variant(config).network
    for path in model.transformers.values():
        with open_transformer(path) as source:
            fit_module(network.build(config.transformer), source, quantization=config.quantization)
    with open_text_encoder(model.text_encoder) as source:
        fit_module(UMT5Encoder(config.text_encoder), source)
        check_token_table(source)
    for row in list_optional(model, config):
        with open_part(model, row) as source:
            fit_module(find_network(row.name).build(read_part_sizes(source, row, config)), source)
    check_vae_decoder(model, config)


def load_text_encoder(model: ModelFolder, config: ModelConfig) -> UMT5Encoder:
    """Load UMT5 as a whole, in the dtype or the quantization of its file.

    Raises:
        CheckpointError: the file does not hold the encoder that the config describes.
    """
    encoder = UMT5Encoder(config.text_encoder)
    with open_text_encoder(model.text_encoder) as source:
        load_module(encoder, source)
    return encoder


def list_lacking(model: ModelFolder, config: ModelConfig) -> list[Component]:
    """The components without which this model, unlike others, cannot work, and which its folder lacks."""
    return [row for row in list_optional(model, config) if row.name not in model.parts]


def list_optional(model: ModelFolder, config: ModelConfig) -> list[Component]:
    """The components that this model has or should have, unlike others."""
    found = []
    for row in list_parts():
        is_there = row.name in model.parts and find_network(row.name).serves(config)
        if not row.is_needed and (is_there or is_missed(row, config)):
            found.append(row)
    return found


def load_part(
    model: ModelFolder, config: ModelConfig, row: Component, dtype: mx.Dtype | None = None
) -> nn.Module:
    """Load a component.

    Args:
        model: the converted folder.
        config: what its config.json says.
        row: of the component.
        dtype: of its numbers; None for that of its file.

    Raises:
        CheckpointError: the folder has none, or one that does not fit the model.
    """
    with open_part(model, row) as source:
        network = find_network(row.name).build(read_part_sizes(source, row, config))
        load_module(network, source, dtype=dtype)
    return network


def load_image_encoder(model: ModelFolder, config: ModelConfig) -> CLIPImageEncoder:
    """Load the CLIP visual tower in the dtype of its file.

    Raises:
        CheckpointError: the folder has none, or one of another width than the transformer's image branch.
    """
    encoder = load_part(model, config, IMAGE_ENCODER)
    assert isinstance(encoder, CLIPImageEncoder)
    return encoder


def load_audio_encoder(model: ModelFolder, config: ModelConfig) -> Wav2Vec2Encoder:
    """Load wav2vec 2.0 in the dtype of its file.

    Raises:
        CheckpointError: the folder has none, or one of another width than the transformer hears.
    """
    encoder = load_part(model, config, AUDIO_ENCODER)
    assert isinstance(encoder, Wav2Vec2Encoder)
    return encoder


def load_motion_controller(model: ModelFolder, config: ModelConfig) -> MotionController:
    """Load the motion controller.

    Raises:
        CheckpointError: the folder has none, or one of another width than the transformer.
    """
    controller = load_part(model, config, MOTION_CONTROLLER)
    assert isinstance(controller, MotionController)
    return controller


def load_tiny_decoder(model: ModelFolder, config: ModelConfig) -> TinyDecoder:
    """Load the tiny decoder as float32, whatever its file holds.

    Raises:
        CheckpointError: there is none, or it is of other latents.
    """
    decoder = load_part(model, config, TINY_VAE, mx.float32)
    assert isinstance(decoder, TinyDecoder)
    return decoder


def check_tiny_decoder(model: ModelFolder, config: ModelConfig) -> None:
    """Find out before any work whether the model's tiny decoder can be used, from its header alone.

    Raises:
        CheckpointError: its file is damaged, or it is of other latents.
    """
    with open_part(model, TINY_VAE) as source:
        fit_module(TinyDecoder(read_part_sizes(source, TINY_VAE, config)), source)


def open_part(model: ModelFolder, row: Component) -> TensorSource:
    """Open the file of a component under the names of a converted one.

    Raises:
        MissingPartError: the folder has none.
        CheckpointError: the file is damaged.
    """
    path = model.parts.get(row.name)
    if path is None:
        originals = f", with its {row.original_files[0]}" if row.original_files else ""
        raise MissingPartError(
            f"{model.path}: {row.file_name} not found; this model {row.use}. Convert the original checkpoint "
            f"again{originals}."
        )
    return open_component(path, row)


def read_part_sizes(source: TensorSource, row: Component, config: ModelConfig) -> Any:
    """Sizes of a converted component.

    Raises:
        CheckpointError: it is another, or does not fit the model's transformer.
    """
    found = find_network(row.name).read_converted_sizes(source.infos, label=source.label)
    check_width(row, found, config, source.label, "convert the model again.")
    return found


def load_transformer(
    model: ModelFolder,
    config: ModelConfig,
    name: str = "model",
    adapters: AdapterSet | None = None,
    lora_mode: LoraMode = "auto",
    dtype: mx.Dtype | None = None,
) -> VideoTransformer:
    """Load a transformer in the dtype, or the quantization, of its file, and apply its adapters.

    Args:
        model: the converted folder.
        config: what its config.json says.
        name: "model" for a single transformer.
        adapters: of this transformer.
        lora_mode: whether they are merged, or run beside quantized layers.
        dtype: of its numbers; None for that of its file.

    Raises:
        CheckpointError: the file does not hold the transformer that config.json describes.
        ConfigError: the quantization that config.json names is not the file's.
        AdapterError: an adapter cannot be applied.
    """
    sizes = adapters.stored_sizes(config.transformer) if adapters else config.transformer
    transformer = find_variant(config).network.build(sizes)
    with open_transformer(model.transformers[name]) as source:
        load_module(transformer, source, dtype=dtype, quantization=config.quantization)
    if adapters:
        apply_adapters(transformer, adapters, mode=lora_mode)
    return transformer
