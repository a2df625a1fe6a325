"""What a conversion will write, decided from headers alone: every tensor of every file, and the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_video.checkpoint.model_folder import (
    IMAGE_ENCODER_FILE,
    TEXT_ENCODER_FILE,
    TRANSFORMER_FILES,
    VAE_FILE,
)
from mlx_video.checkpoint.original_folder import IMAGE_ENCODER_FILE as ORIGINAL_IMAGE_ENCODER
from mlx_video.checkpoint.original_folder import OriginalFolder, open_original_folder
from mlx_video.checkpoint.tensor_source import TensorSource, open_tensors
from mlx_video.config import (
    ModelConfig,
    QuantizationConfig,
    TextEncoderConfig,
    config_to_json,
    find_vae_config,
)
from mlx_video.errors import CheckpointError
from mlx_video.request import ConvertRequest
from mlx_video.variants.registry import Recognition, recognise_checkpoint
from mlx_video.weights import image_encoder_names, text_encoder_names, transformer_names, vae_names
from mlx_video.weights.quantize import check_group_size
from mlx_video.weights.rules import find_prefix, plan_moves, strip_prefix
from mlx_video.weights.stream import TensorJob, output_infos, plan_jobs

STAGES = {"model": "transformer", "low_noise": "low_noise", "high_noise": "high_noise"}
DTYPE_SPELLINGS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True)
class Component:
    """One file to write from tensors.

    Attributes:
        stage: what the user sees while it is written.
        file_name: in the converted folder.
        jobs: every tensor of the file.
    """

    stage: str
    file_name: str
    source: TensorSource
    jobs: tuple[TensorJob, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the file's tensors."""
        return sum(info.nbytes for info in output_infos(self.jobs))


@dataclass(frozen=True, slots=True)
class Copy:
    """One file to copy as it is.

    Attributes:
        stage: what the user sees while it is copied.
        file_name: in the converted folder.
    """

    stage: str
    file_name: str
    path: Path

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the converted folder will hold, and what to tell the user beforehand.

    Attributes:
        tokenizer: folder to copy the tokenizer's files from.
        config: config.json to be written.
        notices: what the user should know before it begins.
    """

    components: tuple[Component, ...]
    copies: tuple[Copy, ...]
    tokenizer: Path | None
    config: Mapping[str, Any]
    notices: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all large files together."""
        components = sum(component.nbytes for component in self.components)
        return components + sum(copy.nbytes for copy in self.copies)


def plan_conversion(request: ConvertRequest, opened: ExitStack) -> Plan:
    """Plan the conversion of an original checkpoint folder.

    Args:
        request: what to convert, into what.
        opened: keeps the source files open until the plan is carried out.

    Raises:
        CheckpointError: a component or tensor is missing, unknown, misshapen, or of another model.
        ConfigError: config.json contradicts the tensors.
        RequestError: model version or group size do not fit the checkpoint.
    """
    folder = open_original_folder(request.checkpoint_dir)
    transformers = {
        name: opened.enter_context(open_tensors(paths)) for name, paths in folder.transformers.items()
    }
    text_source = opened.enter_context(open_tensors(folder.text_encoder))
    recognition = _recognise(folder, transformers, request)
    config = replace(
        recognition.config,
        text_encoder=_read_text_encoder(text_source, recognition.config),
        quantization=_quantization(request),
    )
    vae_source = _open_vae(folder, config.transformer.out_dim, opened)
    config = replace(config, vae=find_vae_config(config.transformer.out_dim))
    return Plan(
        components=(
            *(_plan_transformer(name, source, config, request) for name, source in transformers.items()),
            _plan_text_encoder(text_source, config.text_encoder, request),
            *_plan_image_encoder(folder, config, request, opened),
            _plan_vae(vae_source, config),
        ),
        copies=(),
        tokenizer=folder.tokenizer,
        config=config_to_json(config),
        notices=recognition.notices,
    )


def _recognise(
    folder: OriginalFolder, transformers: Mapping[str, TensorSource], request: ConvertRequest
) -> Recognition:
    """Tell the variant from the transformers; two experts must be of one kind and size."""
    found = {name: _recognise_one(folder, transformers, name, request) for name in transformers}
    (first, recognition), *others = found.items()
    for name, other in others:
        if other.config != recognition.config:
            raise CheckpointError(
                f"{folder.path}: {STAGES[first]} and {STAGES[name]} are different transformers "
                f"({other.config.transformer} and {recognition.config.transformer}). "
                "Fetch both experts from the same repository."
            )
    return recognition


def _recognise_one(
    folder: OriginalFolder, transformers: Mapping[str, TensorSource], name: str, request: ConvertRequest
) -> Recognition:
    source = transformers[name]
    prefix = find_prefix(source.infos, transformer_names.ANCHOR)
    shapes = {short: info.shape for short, info in strip_prefix(source.infos, prefix).items()}
    return recognise_checkpoint(
        shapes,
        folder.transformer_configs[name],
        is_dual=len(transformers) > 1,
        model_version=request.model_version,
        label=source.label,
    )


def _quantization(request: ConvertRequest) -> QuantizationConfig | None:
    if request.quantize:
        return QuantizationConfig(bits=request.bits, group_size=request.group_size)
    return None


def _read_text_encoder(source: TensorSource, config: ModelConfig) -> TextEncoderConfig:
    prefix = find_prefix(source.infos, text_encoder_names.ANCHOR)
    infos = strip_prefix(source.infos, prefix)
    found = text_encoder_names.read_text_encoder_config(infos, label=source.label)
    if found.dim != config.transformer.text_dim:
        raise CheckpointError(
            f"{source.label}: token_embedding.weight is {found.dim} wide, the transformer's "
            f"text_embedding.0.weight takes {config.transformer.text_dim}. They are of different models; "
            "fetch both from the same repository."
        )
    return found


def _open_vae(folder: OriginalFolder, z_dim: int, opened: ExitStack) -> TensorSource:
    """The VAE whose latents have the transformer's channels; a folder may hold two."""
    found = []
    for path in folder.vaes.values():
        source = opened.enter_context(open_tensors(path))
        prefix = find_prefix(source.infos, vae_names.ANCHOR)
        channels = vae_names.read_latent_channels(strip_prefix(source.infos, prefix), label=source.label)
        if channels == z_dim:
            return source
        found.append(f"{path.name} has {channels} latent channels")
    raise CheckpointError(
        f"{'; '.join(found)}, the transformer makes {z_dim}. "
        "Wan2.1 and Wan2.2 A14B models use Wan2.1_VAE.pth, Wan2.2 TI2V-5B uses Wan2.2_VAE.pth."
    )


def _plan_transformer(
    name: str, source: TensorSource, config: ModelConfig, request: ConvertRequest
) -> Component:
    expected = transformer_names.transformer_tensors(config.transformer)
    prefix = find_prefix(source.infos, transformer_names.ANCHOR)
    moves = plan_moves(source, transformer_names.WAN_RULES, expected, prefix=prefix)
    if config.quantization:
        check_group_size({move.target: move.shape for move in moves}, config.quantization)
    jobs = plan_jobs(moves, dtype=stored_dtype(request), quantization=config.quantization)
    return Component(STAGES[name], TRANSFORMER_FILES[name], source, jobs)


def _plan_text_encoder(source: TensorSource, config: TextEncoderConfig, request: ConvertRequest) -> Component:
    expected = text_encoder_names.text_encoder_tensors(config)
    prefix = find_prefix(source.infos, text_encoder_names.ANCHOR)
    moves = plan_moves(source, text_encoder_names.WAN_RULES, expected, prefix=prefix)
    return Component("text_encoder", TEXT_ENCODER_FILE, source, plan_jobs(moves, dtype=stored_dtype(request)))


def _plan_image_encoder(
    folder: OriginalFolder, config: ModelConfig, request: ConvertRequest, opened: ExitStack
) -> Iterator[Component]:
    """The CLIP visual tower, where the transformer has an image branch; other models do without it."""
    if config.transformer.image_dim is None:
        return
    if folder.image_encoder is None:
        raise CheckpointError(
            f"{ORIGINAL_IMAGE_ENCODER} not found in {folder.path}; the transformer has an image branch and "
            "reads images through it. It is in Wan-AI/Wan2.1-I2V-14B-480P (4.8 GB); the same file serves all "
            "Wan2.1 image-to-video models."
        )
    source = opened.enter_context(open_tensors(folder.image_encoder))
    prefix = find_prefix(source.infos, image_encoder_names.ANCHOR)
    found = image_encoder_names.read_image_encoder_config(
        strip_prefix(source.infos, prefix), label=source.label
    )
    if found.width != config.transformer.image_dim:
        raise CheckpointError(
            f"{source.label}: {prefix}cls_embedding is {found.width} wide, the transformer's "
            f"img_emb.proj.0.weight takes {config.transformer.image_dim}. They are of different models; "
            "fetch both from the same repository."
        )
    expected = image_encoder_names.image_encoder_tensors(found)
    moves = plan_moves(source, image_encoder_names.wan_rules(found), expected, prefix=prefix)
    # float16, as the official code runs it, also where the rest is bfloat16, which is coarser.
    dtype = "F32" if request.dtype == "float32" else "F16"
    yield Component("image_encoder", IMAGE_ENCODER_FILE, source, plan_jobs(moves, dtype=dtype))


def _plan_vae(source: TensorSource, config: ModelConfig) -> Component:
    prefix = find_prefix(source.infos, vae_names.ANCHOR)
    found = vae_names.read_vae_config(strip_prefix(source.infos, prefix), config.vae, label=source.label)
    # Both halves, always: an encoder missing from the file would be missed at the first image.
    whole = replace(
        found,
        encoder_dim=found.encoder_dim or config.vae.encoder_dim,
        decoder_dim=found.decoder_dim or config.vae.decoder_dim,
    )
    rules = vae_names.conversion_rules(whole)
    moves = plan_moves(source, rules, vae_names.vae_tensors(whole), prefix=prefix)
    # float32 whatever --dtype says: the decoder loses visible detail in half precision.
    return Component("vae", VAE_FILE, source, plan_jobs(moves, dtype="F32"))


def stored_dtype(request: ConvertRequest) -> str:
    """The dtype of transformer and text encoder, as safetensors spells it."""
    return DTYPE_SPELLINGS[request.dtype]
