"""An original checkpoint, component by component and chunk by chunk, into a converted folder."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_video.conditioning.text import load_tokenizer
from mlx_video.config import QuantizationConfig
from mlx_video.convert.local_files import with_local_checkpoint
from mlx_video.convert.plan import Copy, Plan, WrittenFile, plan_conversion
from mlx_video.convert.quantize_plan import plan_quantization
from mlx_video.errors import CheckpointError
from mlx_video.events import BytesWritten, Event, FileWritten, Notice, StageFinished, StageStarted
from mlx_video.files.file_bytes import describe_bytes
from mlx_video.files.unusable_paths import real_path
from mlx_video.hub.fetch import TOKENIZER_REPOSITORY, fetch_tokenizer
from mlx_video.layouts.folder_layout import CONFIG_FILE, TOKENIZER_FILES, TOKENIZER_FOLDER, TOKENIZER_MODEL
from mlx_video.layouts.staging import check_free_space, find_unfinished, staged_folder
from mlx_video.planning.mlx_limits import MLXLimits
from mlx_video.request import ConvertRequest
from mlx_video.weights.stream import CHUNK_BYTES, output_infos, plan_jobs, write_tensors

# Freed chunks that MLX keeps for reuse: a few, where its default keeps nearly everything.
CACHE_BYTES = 8 * CHUNK_BYTES
SMALLEST = QuantizationConfig(bits=4, group_size=64)


def convert(request: ConvertRequest) -> Generator[Event, None, None]:
    """Convert a checkpoint; the output folder appears when all of it is written.

    All headers are checked before any weight is read. Weights pass through in chunks of a few megabytes,
    each source tensor once.

    Args:
        request: what to convert, into what.

    Yields:
        Notices, the stages with their progress, and the folder's path at the end.

    Raises:
        CheckpointError: the source is incomplete, damaged or of another model, or the disk is too full.
        ConfigError: a config.json contradicts the weights.
        RequestError: an option does not fit the checkpoint.
    """
    typed = request.output_dir
    # Resolved once: a link that is changed meanwhile, or a path through `..`, leads nowhere else.
    request = replace(request, output_dir=real_path(typed))
    request = yield from with_local_checkpoint(request)
    with ExitStack() as opened:
        plan = (plan_quantization if request.quantize_only else plan_conversion)(request, opened)
        yield from map(Notice, plan.notices)
        _check_space(plan, request)
        if not (plan.has_tokenizer or request.quantize_only):
            plan = yield from _with_tokenizer(plan)
        leftover = find_unfinished(request.output_dir)
        with staged_folder(request.output_dir) as stage:
            if leftover:
                yield Notice(f"Found an unfinished conversion, {leftover.name}; removed it.")
            yield from MLXLimits({"cache": CACHE_BYTES}).in_force(_fill(stage, plan))
    yield FileWritten(typed if typed.exists() else request.output_dir)


def _with_tokenizer(plan: Plan) -> Generator[Event, None, Plan]:
    """The plan with the tokenizer that all Wan models share, downloaded the first time."""
    lack = "The checkpoint has no tokenizer, neither in a folder nor in its text encoder"
    try:
        folder = yield from fetch_tokenizer()
        load_tokenizer(folder, plan.vocab_size)
    except CheckpointError as error:
        raise CheckpointError(
            f"{lack}. Give the folder {TOKENIZER_REPOSITORY} of any Wan-AI repository as --tokenizer. "
            f"That of the Hub cannot be taken: {error}"
        ) from error
    yield Notice(f"{lack}; took that of {TOKENIZER_REPOSITORY}.")
    return replace(plan, tokenizer=folder)


def _check_space(plan: Plan, request: ConvertRequest) -> None:
    advice = "Free some space, or write to another disk."
    if not (request.quantize or request.quantize_only):
        smaller = plan.nbytes - _saved_by_quantizing(plan)
        advice = f"--quantize --bits {SMALLEST.bits} needs {describe_bytes(smaller)}. {advice}"
    check_free_space(request.output_dir, plan.nbytes, advice=advice)


def _saved_by_quantizing(plan: Plan) -> int:
    saved = 0
    for component in plan.components:
        if any(component.is_quantized(job.layer) for job in component.jobs):
            packed = plan_jobs(
                (job.move for job in component.jobs),
                dtype=component.jobs[0].dtype,
                quantization=SMALLEST,
                is_quantized=component.is_quantized,
            )
            saved += component.nbytes - sum(info.nbytes for info in output_infos(packed))
    return saved


def _fill(stage: Path, plan: Plan) -> Generator[Event, None, None]:
    """Write everything that a plan says into a folder."""
    try:
        for component in plan.components:
            yield from _write_component(component, stage)
        for copy in plan.copies:
            yield from _copy_component(copy, stage)
    finally:
        mx.clear_cache()
    _write_tokenizer(plan, stage)
    (stage / CONFIG_FILE).write_text(json.dumps(plan.config, indent=2) + "\n", encoding="ascii")


def _write_component(component: WrittenFile, stage: Path) -> Iterator[Event]:
    progress = write_tensors(stage / component.file_name, component.source, component.jobs)
    return _report(component.stage, component.nbytes, progress)


def _copy_component(copy: Copy, stage: Path) -> Iterator[Event]:
    return _report(copy.stage, copy.nbytes, _copy_file(copy.path, stage / copy.file_name))


def _report(stage_name: str, total: int, progress: Iterator[int]) -> Iterator[Event]:
    started = time.perf_counter()
    mx.reset_peak_memory()
    yield StageStarted(stage_name)
    for done in progress:
        yield BytesWritten(stage_name, done, total)
    yield StageFinished(stage_name, time.perf_counter() - started, mx.get_peak_memory())


def _copy_file(source: Path, target: Path) -> Iterator[int]:
    done = 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(CHUNK_BYTES):
            writing.write(chunk)
            done += len(chunk)
            yield done


def _write_tokenizer(plan: Plan, stage: Path) -> None:
    if not plan.has_tokenizer:
        return
    folder = stage / TOKENIZER_FOLDER
    folder.mkdir()
    if plan.tokenizer is None:
        (folder / TOKENIZER_MODEL).write_bytes(plan.tokenizer_model)
        return
    for name in TOKENIZER_FILES:
        if (plan.tokenizer / name).is_file():
            (folder / name).write_bytes((plan.tokenizer / name).read_bytes())
