"""What a conversion will write, decided from headers alone: every tensor of every file, and the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_video.conditioning.text import load_tokenizer, read_tokenizer_model
from mlx_video.config import ModelConfig, QuantizationConfig, TextEncoderConfig, VAEConfig, config_to_json
from mlx_video.convert.find_checkpoint import find_checkpoint
from mlx_video.convert.original_component import original_component
from mlx_video.convert.recognise_transformers import STAGES, recognise_transformers
from mlx_video.convert.source_hints import adopt_hints
from mlx_video.convert.vae_origin import choose_vae
from mlx_video.errors import CheckpointError, MissingPartError, RequestError
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.checkpoint_files import CheckpointFiles
from mlx_video.layouts.components import ORIGINAL_STEM, TEXT_ENCODER, VAE, Component, list_parts
from mlx_video.layouts.expert_names import find_sure_expert, guess_expert_of_name
from mlx_video.layouts.folder_layout import SPLIT_REST, TRANSFORMER_FILES
from mlx_video.loading.adapters import bake_jobs, read_all_adapters, record_baked, widen_config
from mlx_video.lora.read import AdapterSet
from mlx_video.request import ConvertRequest
from mlx_video.variants.registry import find_variant
from mlx_video.weights.component_kind import is_tokenizer_tensor
from mlx_video.weights.component_networks import check_width, describe_other_part, find_network, is_missed
from mlx_video.weights.names import text_encoder_names, vae_names
from mlx_video.weights.quantize import ChooseLayer, check_group_size
from mlx_video.weights.rules import plan_moves
from mlx_video.weights.spellings import report_empty_table
from mlx_video.weights.stored.empty_weights import check_token_table
from mlx_video.weights.stored.fix_5d_file import report_fix_5d_file
from mlx_video.weights.stored.scaled import report_plain_float8
from mlx_video.weights.stream import TensorJob, output_infos, plan_jobs

DTYPE_SPELLINGS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}

_ONE_REPOSITORY = "fetch both from the same repository."
# By these a transformer is called in any folder.
_USUAL_NAMES = (ORIGINAL_STEM, SPLIT_REST)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One file to write from tensors.

    Attributes:
        stage: what the user sees while it is written.
        file_name: in the converted folder.
        source: the tensors that the jobs read.
        jobs: every tensor of the file.
        is_quantized: which of its layers `--quantize` changes.
    """

    stage: str
    file_name: str
    source: TensorSource
    jobs: tuple[TensorJob, ...]
    is_quantized: ChooseLayer = lambda path: False

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
        path: the file to copy.
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
        components: the files to write from tensors.
        copies: the files to copy.
        tokenizer: folder to copy the tokenizer's files from, if there is one.
        tokenizer_model: the file spiece.model, where the text encoder's file holds it; else empty.
        vocab_size: rows of the text encoder's table, which any tokenizer must fit; 0 if unknown.
        config: config.json to be written.
        notices: what the user should know before it begins.
    """

    components: tuple[WrittenFile, ...]
    copies: tuple[Copy, ...]
    tokenizer: Path | None
    config: Mapping[str, Any]
    notices: tuple[str, ...]
    tokenizer_model: bytes = b""
    vocab_size: int = 0

    @property
    def has_tokenizer(self) -> bool:
        """Whether the checkpoint came with one."""
        return self.tokenizer is not None or bool(self.tokenizer_model)

    @property
    def nbytes(self) -> int:
        """Bytes of all large files together."""
        components = sum(component.nbytes for component in self.components)
        return components + sum(copy.nbytes for copy in self.copies)


def plan_conversion(request: ConvertRequest, opened: ExitStack) -> Plan:
    """Plan the conversion of a checkpoint, in whatever layout it comes.

    Args:
        request: what to convert, into what.
        opened: keeps the source files open until the plan is carried out.

    Raises:
        AdapterError: an adapter is damaged or does not fit the checkpoint.
        CheckpointError: a component or tensor is missing, unknown, misshapen, or of another model.
        ConfigError: config.json contradicts the tensors.
        RequestError: model version or group size do not fit the checkpoint.
    """
    files = find_checkpoint(request)
    transformers = {
        name: open_component(paths, "transformer", opened) for name, paths in files.transformers.items()
    }
    text_stored = opened.enter_context(open_tensors(files.text_encoder))
    text_source = original_component(text_stored, "text_encoder")
    recognition = recognise_transformers(files, transformers, request)
    z_dim, is_named = recognition.config.transformer.out_dim, request.vae is not None
    vae_source, vae_notices = _open_vae(files, z_dim, opened, is_named=is_named)
    config, hint_notices = adopt_hints(
        replace(
            recognition.config,
            text_encoder=_read_text_encoder(text_source, recognition.config),
            vae=_read_vae(vae_source, recognition.config),
            quantization=_quantization(request),
        ),
        files,
    )
    adapters, adapter_notices = read_all_adapters(request, config)
    components = (
        *(
            _plan_transformer(name, source, config, request, adapters.get(name))
            for name, source in transformers.items()
        ),
        _plan_part(TEXT_ENCODER, text_source, config.text_encoder, request),
        *(part for row in list_parts() for part in _plan_other_part(row, files, config, request, opened)),
        _plan_vae(vae_source, config, request),
    )
    return Plan(
        components=components,
        copies=(),
        tokenizer=files.tokenizer,
        tokenizer_model=_check_tokenizer(files, config.text_encoder, text_stored),
        vocab_size=config.text_encoder.vocab_size,
        config=record_baked(config_to_json(widen_config(config, adapters)), request),
        notices=(
            *files.notices,
            *recognition.notices,
            *_report_experts(files),
            *(text for paths in files.transformers.values() for text in report_fix_5d_file(paths)),
            *hint_notices,
            *vae_notices,
            *_report_output_scale(vae_source, config),
            *_report_dropped(transformers),
            *report_empty_table(text_stored),
            *report_plain_float8(component.source for component in components),
            *(notice.text for notice in adapter_notices),
        ),
    )


def open_component(paths: Sequence[Path], component: str, opened: ExitStack) -> TensorSource:
    """Open the files of one component, its tensors under the Wan original's names whatever they are called.

    Weights that are stored with scales are read as the numbers they stand for.

    Args:
        paths: all files of the component.
        component: what it should be.
        opened: keeps the files open.

    Raises:
        CheckpointError: a file is missing, damaged or of an unknown format, or holds a tensor twice.
    """
    return original_component(opened.enter_context(open_tensors(paths)), component)


def _report_experts(files: CheckpointFiles) -> Iterator[str]:
    """Say which transformer is which expert: swapped ones could not be told from their tensors."""
    if len(files.transformers) < 2:
        ((path, *_),) = files.transformers.values()
        if expert := find_sure_expert(path):
            stage = expert.replace("_", "-")
            place = path.name if guess_expert_of_name(path.stem) else f"{path.parent.name}/"
            yield (
                f"{place}: the name says that it is the {stage} expert, one of two. It makes the "
                "whole video alone now; for both give --high-noise FILE and --low-noise FILE."
            )
        return
    firsts = {name: paths[0] for name, paths in files.transformers.items()}
    # Names that both have, or that every model has, tell nothing.
    is_by_folder = len({path.name for path in firsts.values()}) < len(firsts)
    places = {
        name: f"{path.parent.name}/" if is_by_folder or path.name.startswith(_USUAL_NAMES) else path.name
        for name, path in firsts.items()
    }
    yield f"Experts: {', '.join(f'{STAGES[name]} from {place}' for name, place in places.items())}."
    for name, place in places.items():
        if guess_expert_of_name(Path(place).stem) not in (None, name):
            yield f"{place}: the name says the other expert. If they are swapped, the video will be noise."


def _report_dropped(transformers: Mapping[str, TensorSource]) -> Iterator[str]:
    """Say which tensors are left out of a transformer although somebody trained them."""
    for name, source in transformers.items():
        gates = [tensor for tensor in source.infos if ".to_gate_compress." in tensor]
        if gates:
            yield (
                f"{STAGES[name]}: {len(gates)} tensors of FastVideo's sparse attention (to_gate_compress) "
                "are left out; attention is dense here."
            )


def _quantization(request: ConvertRequest) -> QuantizationConfig | None:
    if request.quantize:
        return QuantizationConfig(bits=request.bits, group_size=request.group_size)
    return None


def _read_text_encoder(source: TensorSource, config: ModelConfig) -> TextEncoderConfig:
    found = text_encoder_names.read_text_encoder_config(source.infos, label=source.label)
    check_width(TEXT_ENCODER, found, config, source.label, _ONE_REPOSITORY)
    check_token_table(source)
    return found


def _check_tokenizer(files: CheckpointFiles, config: TextEncoderConfig, stored: TensorSource) -> bytes:
    """Refuse a tokenizer of another text encoder; returns the one that lies in the encoder's own file."""
    if files.tokenizer is not None:
        load_tokenizer(files.tokenizer, config.vocab_size)
        return b""
    name = next(filter(is_tokenizer_tensor, stored.infos), None)
    if name is None:
        return b""
    model = np.array(stored.read(name)).tobytes() if stored.infos[name].dtype in ("U8", "I8") else b""
    read_tokenizer_model(model, f"{stored.label}: {name}", config.vocab_size)
    return model


def _open_vae(
    files: CheckpointFiles, z_dim: int, opened: ExitStack, *, is_named: bool
) -> tuple[TensorSource, tuple[str, ...]]:
    """The VAE whose latents have the transformer's channels, and what to tell of it; a folder may hold two.

    Args:
        files: of the checkpoint.
        z_dim: channels of the transformer's latents.
        opened: keeps the files open.
        is_named: whether the user chose this VAE; another model's is taken only then.
    """
    found, fitting = [], []
    for paths in files.vaes.values():
        source = open_component(paths, "vae", opened)
        channels = vae_names.read_latent_channels(source.infos, label=source.label)
        other = describe_other_part("vae", source.infos)
        if channels == z_dim and not other:
            fitting.append((paths, source))
        found.append(f"{source.label} {other or f'has {channels} latent channels'}")
    if fitting:
        return choose_vae(files, fitting, is_named=is_named)
    raise CheckpointError(
        f"{'; '.join(found)}, the transformer makes {z_dim}. "
        "Wan2.1 and Wan2.2 A14B models use Wan2.1_VAE.pth, Wan2.2 TI2V-5B uses Wan2.2_VAE.pth."
    )


def _read_vae(source: TensorSource, config: ModelConfig) -> VAEConfig:
    """The model's VAE with the size that this file's decoder makes frames."""
    scale = vae_names.read_output_scale(source.infos, config.vae)
    return replace(config.vae, output_scale=scale)


def _report_output_scale(source: TensorSource, config: ModelConfig) -> Iterator[str]:
    scale = config.vae.output_scale
    if scale != 1:
        yield (
            f"{source.label}: its decoder makes frames {scale} times as wide and as high; videos become "
            f"{scale} times larger than the size asked for."
        )


def _plan_transformer(
    name: str, source: TensorSource, config: ModelConfig, request: ConvertRequest, adapters: AdapterSet | None
) -> WrittenFile:
    network = find_variant(config).network
    moves = plan_moves(source, network.rules, network.tensors(config.transformer))
    shapes = {move.target: move.shape for move in moves}
    if config.quantization:
        check_group_size(shapes, config.quantization, network.is_quantized)
    jobs = plan_jobs(
        moves,
        dtype=stored_dtype(request),
        quantization=config.quantization,
        is_quantized=network.is_quantized,
    )
    jobs = bake_jobs(jobs, adapters)
    return WrittenFile(STAGES[name], TRANSFORMER_FILES[name], source, jobs, network.is_quantized)


def _plan_part(row: Component, source: TensorSource, sizes: Any, request: ConvertRequest) -> WrittenFile:
    network = find_network(row.name)
    jobs = plan_jobs(network.plan_moves(source, sizes), dtype=network.store_as(stored_dtype(request)))
    return WrittenFile(row.name, row.file_name, source, jobs)


def _plan_other_part(
    row: Component, files: CheckpointFiles, config: ModelConfig, request: ConvertRequest, opened: ExitStack
) -> Iterator[WrittenFile]:
    """A component that some models have, where this one does and it is there."""
    if row.is_needed:
        return
    network, paths = find_network(row.name), files.parts.get(row.name, ())
    if not network.serves(config):
        if row.option in request.components:
            raise RequestError(row.option, f"{row.refusal} Leave the option out.")
        return
    if not paths and is_missed(row, config):
        raise MissingPartError(f"{row.original_files[0]} not found in {files.path}; {row.advice}")
    if paths:
        source = open_component(paths, row.name, opened)
        sizes = network.read_sizes(source.infos, label=source.label)
        check_width(row, sizes, config, source.label, _ONE_REPOSITORY)
        network.check(source)
        yield _plan_part(row, source, sizes, request)


def _plan_vae(source: TensorSource, config: ModelConfig, request: ConvertRequest) -> WrittenFile:
    found = vae_names.read_vae_config(source.infos, config.vae, label=source.label)
    # Both halves, always: an encoder missing from the file would be missed at the first image.
    whole = replace(
        found,
        encoder_dim=found.encoder_dim or config.vae.encoder_dim,
        decoder_dim=found.decoder_dim or config.vae.decoder_dim,
    )
    return _plan_part(VAE, source, whole, request)


def stored_dtype(request: ConvertRequest) -> str:
    """The dtype of transformer and text encoder, as safetensors spells it."""
    return DTYPE_SPELLINGS[request.dtype]
