"""The halves of a VAE, each loaded for itself: the encoder reads images, the decoder makes frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import mlx.core as mx

from mlx_video.config import ModelConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.layouts.folder_layout import CONFIG_FILE
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.open_parts import open_vae
from mlx_video.models.vae.autoencoder import WanVAE
from mlx_video.weights.load import fit_module, load_module
from mlx_video.weights.names.vae_names import CONVERTED_RULES, read_vae_config
from mlx_video.weights.renamed import RenamedTensors

Half = Literal["encoder", "decoder"]
# What the names of a half's tensors begin with.
VAE_HALVES: dict[Half, tuple[str, ...]] = {
    "encoder": ("encoder.", "conv1."),
    "decoder": ("decoder.", "conv2."),
}


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


def read_decoder_width(model: ModelFolder, config: ModelConfig) -> int:
    """Channels of the last stage of the decoder.

    Raises:
        CheckpointError: as :func:`check_vae_decoder`.
    """
    return _find_half(model, config, "decoder")[1]


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
