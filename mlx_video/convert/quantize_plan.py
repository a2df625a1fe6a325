"""What quantizing a folder that was converted earlier will write, decided from headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from mlx_video.config import ModelConfig, QuantizationConfig, config_to_json
from mlx_video.convert.plan import Copy, Plan, WrittenFile, stored_dtype
from mlx_video.convert.recognise_transformers import STAGES
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.formats.safetensors import read_header
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.components import list_parts
from mlx_video.layouts.folder_layout import TRANSFORMER_FILES, recognise_layout
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.adapters import bake_jobs, read_all_adapters, record_baked, widen_config
from mlx_video.loading.components import list_lacking, open_model
from mlx_video.lora.read import AdapterSet
from mlx_video.request import ConvertRequest
from mlx_video.variants.registry import find_variant
from mlx_video.weights.names import transformer_names
from mlx_video.weights.quantize import check_group_size
from mlx_video.weights.rules import plan_moves
from mlx_video.weights.stream import plan_jobs


def plan_quantization(request: ConvertRequest, opened: ExitStack) -> Plan:
    """Plan the quantization of a folder that was converted earlier.

    Args:
        request: what to quantize, into what.
        opened: keeps the source files open until the plan is carried out.

    Raises:
        AdapterError: an adapter is damaged or does not fit the folder.
        CheckpointError: the folder is incomplete, already quantized, or does not fit its config.json.
        ConfigError: config.json cannot be read.
        RequestError: model version or group size do not fit the folder.
    """
    assert request.checkpoint_dir is not None  # the request refuses it
    _refuse_fastvideo(request.checkpoint_dir)
    folder, config = open_model(request.checkpoint_dir)
    quantization = QuantizationConfig(bits=request.bits, group_size=request.group_size)
    _check_version(request, config)
    sources = {name: opened.enter_context(open_tensors(path)) for name, path in folder.transformers.items()}
    for source in sources.values():
        _refuse_quantized(folder, config, source)
    adapters, adapter_notices = read_all_adapters(request, config)
    components = tuple(
        _plan_requantized(name, source, config, quantization, adapters.get(name))
        for name, source in sources.items()
    )
    # What was corrected or guessed for this reader is settled for the next.
    changed = widen_config(config, adapters)
    settled = config_to_json(changed) if folder.notices or changed != config else folder.config
    written = {**settled, "quantization": {"group_size": request.group_size, "bits": request.bits}}
    return Plan(
        components=components,
        copies=tuple(_copies(folder)),
        tokenizer=folder.tokenizer,
        config=record_baked(written, request),
        notices=(
            *folder.notices,
            *_quantization_notices(request, folder, config, components),
            *(notice.text for notice in adapter_notices),
        ),
    )


def _check_version(request: ConvertRequest, config: ModelConfig) -> None:
    if request.model_version not in ("auto", config.model_version):
        raise RequestError(
            "model_version",
            f"{request.model_version}: {request.checkpoint_dir} is of version {config.model_version}. "
            "Leave the option out.",
        )


def _refuse_fastvideo(path: Path) -> None:
    if path.is_dir() and recognise_layout(path) == "fastvideo":
        raise CheckpointError(
            f"{path}: is a FastVideo MLX folder, which is run as it is, not quantized again: "
            f"python -m mlx_video.generate_wan --model-dir {path}"
        )


def _refuse_quantized(folder: ModelFolder, config: ModelConfig, source: TensorSource) -> None:
    if config.quantization or any(name.endswith(".scales") for name in source.infos):
        found = f" ({config.quantization.bits} bits)" if config.quantization else ""
        raise CheckpointError(
            f"{folder.path}: already quantized{found}; start from a bfloat16 folder, "
            "or from the original checkpoint."
        )


def _plan_requantized(
    name: str,
    source: TensorSource,
    config: ModelConfig,
    quantization: QuantizationConfig,
    adapters: AdapterSet | None,
) -> WrittenFile:
    network = find_variant(config).network
    expected = network.parameters(config.transformer)
    moves = plan_moves(source, transformer_names.CONVERTED_RULES, expected)
    check_group_size(expected, quantization, network.is_quantized)
    # The tensors keep their dtype, so that the result is that of converting with --quantize at once.
    jobs = plan_jobs(moves, quantization=quantization, is_quantized=network.is_quantized)
    jobs = bake_jobs(jobs, adapters)
    return WrittenFile(STAGES[name], TRANSFORMER_FILES[name], source, jobs, network.is_quantized)


def _copies(folder: ModelFolder) -> Iterator[Copy]:
    files = [(row.name, row.file_name, folder.parts.get(row.name)) for row in list_parts()]
    files += [
        (Path(row.second_file).stem, row.second_file, folder.second_files.get(row.name))
        for row in list_parts()
    ]
    for stage, file_name, path in files:
        if path is not None:
            read_header(path)  # a truncated file is refused before anything is written
            yield Copy(stage, file_name, path)


def _quantization_notices(
    request: ConvertRequest, folder: ModelFolder, config: ModelConfig, components: tuple[WrittenFile, ...]
) -> Iterator[str]:
    found = {job.dtype for component in components for job in component.jobs}
    if found != {stored_dtype(request)}:
        yield (
            f"Tensors keep the dtype that {folder.path} has ({', '.join(sorted(found))}); "
            "--dtype counts for original checkpoints."
        )
    for row in list_lacking(folder, config):
        yield (
            f"{folder.path} holds no {row.file_name}, so neither will {request.output_dir}. The model "
            f"{row.use}: copy one there, or convert the original checkpoint."
        )
    if folder.tokenizer is None:
        yield (
            f"{folder.path} holds no tokenizer, so neither will {request.output_dir}. "
            "Copy one into its tokenizer/."
        )
