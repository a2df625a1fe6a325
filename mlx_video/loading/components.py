"""Build each network of a converted folder and fill it with its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from mlx_video.config import (
    ImageEncoderConfig,
    ModelConfig,
    config_from_json,
)
from mlx_video.errors import CheckpointError, ConfigError, MissingPartError
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.folder_layout import recognise_layout
from mlx_video.layouts.model_folder import (
    CONFIG_FILE,
    IMAGE_ENCODER_FILE,
    ModelFolder,
    open_model_folder,
)
from mlx_video.loading.fastvideo_model import open_fastvideo_model
from mlx_video.loading.foreign_folder import (
    read_foreign_config,
    read_text_encoder_sizes,
    with_output_scale,
)
from mlx_video.loading.model_parts import NO_PARTS, ModelParts
from mlx_video.loading.open_parts import open_text_encoder, open_transformer, open_vae
from mlx_video.lora.apply import apply_adapters
from mlx_video.lora.read import AdapterSet
from mlx_video.models.image_encoder import CLIPImageEncoder
from mlx_video.models.text_encoder import UMT5Encoder
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.request import LoraMode
from mlx_video.weights.empty_weights import check_token_table
from mlx_video.weights.load import fit_module, load_module
from mlx_video.weights.names.image_encoder_names import read_converted_image_encoder_config
from mlx_video.weights.names.vae_names import CONVERTED_RULES, read_vae_config
from mlx_video.weights.renamed import RenamedTensors

Half = Literal["encoder", "decoder"]
# What the names of a half's tensors begin with.
VAE_HALVES: dict[Half, tuple[str, ...]] = {
    "encoder": ("encoder.", "conv1."),
    "decoder": ("decoder.", "conv2."),
}


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
    changes: dict[str, Any] = parts.given
    folder = replace(open_model_folder(path, parts.given), **changes)
    if "mlx_video" in folder.config:
        config = config_from_json(folder.config, where=str(folder.path / CONFIG_FILE))
    else:
        config, notices = read_foreign_config(folder)
        folder = replace(folder, notices=notices)
    return folder, _with_sizes(folder, config, parts.given)


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
    for path in model.transformers.values():
        with open_transformer(path) as source:
            fit_module(WanTransformer(config.transformer), source, quantization=config.quantization)
    with open_text_encoder(model.text_encoder) as source:
        fit_module(UMT5Encoder(config.text_encoder), source)
        check_token_table(source)
    if config.transformer.image_dim is not None:
        with _open_image_encoder(model) as source:
            fit_module(CLIPImageEncoder(_read_image_encoder(source, config)), source)
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


def load_image_encoder(model: ModelFolder, config: ModelConfig) -> CLIPImageEncoder:
    """Load the CLIP visual tower in the dtype of its file.

    Raises:
        CheckpointError: the folder has none, or one of another width than the transformer's image branch.
    """
    with _open_image_encoder(model) as source:
        encoder = CLIPImageEncoder(_read_image_encoder(source, config))
        load_module(encoder, source)
    return encoder


def _open_image_encoder(model: ModelFolder) -> TensorSource:
    if model.image_encoder is None:
        raise MissingPartError(
            f"{model.path}: {IMAGE_ENCODER_FILE} not found; this model reads its image through it. Convert "
            "the original checkpoint again, with its models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth."
        )
    return open_tensors(model.image_encoder)


def _read_image_encoder(source: TensorSource, config: ModelConfig) -> ImageEncoderConfig:
    found = read_converted_image_encoder_config(source.infos, label=source.label)
    if found.width != config.transformer.image_dim:
        raise CheckpointError(
            f"{source.label}: cls_embedding is {found.width} wide, the transformer's image branch takes "
            f"{config.transformer.image_dim}. They are of different models; convert the model again."
        )
    return found


def load_transformer(
    model: ModelFolder,
    config: ModelConfig,
    name: str = "model",
    adapters: AdapterSet | None = None,
    lora_mode: LoraMode = "auto",
) -> WanTransformer:
    """Load a transformer in the dtype, or the quantization, of its file, and apply its adapters.

    Args:
        model: the converted folder.
        config: what its config.json says.
        name: "model" for a single transformer.
        adapters: of this transformer.
        lora_mode: whether they are merged, or run beside quantized layers.

    Raises:
        CheckpointError: the file does not hold the transformer that config.json describes.
        ConfigError: the quantization that config.json names is not the file's.
        AdapterError: an adapter cannot be applied.
    """
    transformer = WanTransformer(config.transformer)
    with open_transformer(model.transformers[name]) as source:
        load_module(transformer, source, quantization=config.quantization)
    if adapters:
        apply_adapters(transformer, adapters, mode=lora_mode)
    return transformer


def check_vae_encoder(model: ModelFolder, config: ModelConfig) -> None:
    """Find out before any work that a model cannot take images, from the headers alone.

    Raises:
        CheckpointError: no file holds the encoder half of the VAE, or the VAE is another.
    """
    _fit_half(model, config, "encoder")


def check_vae_decoder(model: ModelFolder, config: ModelConfig) -> None:
    """Find out before any work that a model cannot make frames, from the headers alone.

    Raises:
        CheckpointError: the file does not hold the decoder half of the VAE, or the VAE is another.
    """
    _fit_half(model, config, "decoder")


def load_vae_decoder(model: ModelFolder, config: ModelConfig) -> WanVAE:
    """Load the decoder half of the VAE as float32, whatever its file holds.

    Raises:
        CheckpointError: the file holds no decoder of the latent channels that config.json names.
    """
    return _load_half(model, config, "decoder")


def load_vae_encoder(model: ModelFolder, config: ModelConfig) -> WanVAE:
    """Load the encoder half of the VAE as float32, from the VAE's file or else from the encoder's own.

    Raises:
        CheckpointError: no file holds an encoder of the latent channels that config.json names.
    """
    return _load_half(model, config, "encoder")


def _load_half(model: ModelFolder, config: ModelConfig, half: Half) -> WanVAE:
    path, width = _find_half(model, config, half)
    vae = _build_half(config, half, width)
    with _open_vae(path) as source:
        load_module(vae, source, dtype=mx.float32, prefix_filter=VAE_HALVES[half])
    return vae


def _fit_half(model: ModelFolder, config: ModelConfig, half: Half) -> None:
    path, width = _find_half(model, config, half)
    with _open_vae(path) as source:
        fit_module(_build_half(config, half, width), source, prefix_filter=VAE_HALVES[half])


def _build_half(config: ModelConfig, half: Half, width: int) -> WanVAE:
    is_encoder = half == "encoder"
    alone = replace(
        config.vae, encoder_dim=width if is_encoder else None, decoder_dim=None if is_encoder else width
    )
    return WanVAE(alone)


@contextmanager
def _open_vae(path: Path) -> Iterator[TensorSource]:
    with open_vae(path) as file:
        yield RenamedTensors(file, CONVERTED_RULES)


def _find_half(model: ModelFolder, config: ModelConfig, half: Half) -> tuple[Path, int]:
    """The file that holds a half of the VAE, and the half's width."""
    paths = [model.vae, *([model.vae_encoder] if half == "encoder" and model.vae_encoder else [])]
    for path in paths:
        with _open_vae(path) as source:
            sizes = read_vae_config(source.infos, config.vae, label=source.label)
        width = sizes.encoder_dim if half == "encoder" else sizes.decoder_dim
        if half == "decoder" and sizes.output_scale != config.vae.output_scale:
            raise _other_output_size(path, sizes.output_scale, config.vae.output_scale)
        if width is not None:
            return path, width
    first = {"encoder": "encoder.conv1.weight", "decoder": "decoder.head.0.gamma"}[half]
    use = {"encoder": "to read images", "decoder": "to make frames"}[half]
    names = " and ".join(path.name for path in paths)
    raise CheckpointError(
        f"{names} in {model.path}: {first} is missing, so there is no VAE {half} {use}. "
        "Convert the original checkpoint again; that keeps both halves."
    )


def _other_output_size(path: Path, found: int, stated: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: decoder.head.2.weight makes frames {found} times as wide and as high, {CONFIG_FILE} says "
        f"{stated} times. The VAE was exchanged after the conversion; convert again, with --vae FILE."
    )
