"""Tensors of one component from their source into one converted file, a chunk of bounded size at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.config import QuantizationConfig
from mlx_video.errors import AdapterError, CheckpointError, MLXVideoError
from mlx_video.files.read_ahead import read_ahead
from mlx_video.formats.float8 import FLOAT8_DTYPES
from mlx_video.formats.safetensors import SafetensorsWriter
from mlx_video.formats.tensor_source import DTYPES, FLOAT_DTYPES, TensorInfo, TensorSource
from mlx_video.weights.quantize import ChooseLayer, is_quantized_layer, quantize_rows, quantized_infos
from mlx_video.weights.rules import Move
from mlx_video.weights.stored.empty_weights import has_numbers, must_hold_numbers, refuse_empty

# Small enough that buffers are reused instead of mapped anew for each chunk: 8 MB and more take longer.
CHUNK_BYTES = 4 << 20
# Types that are read as float32 because MLX has none of their own, and so cannot be written.
WIDENED_DTYPES = ("F64", *FLOAT8_DTYPES)
_CONVERTIBLE_DTYPES = (*FLOAT_DTYPES, *FLOAT8_DTYPES)
# The smallest bit pattern of a positive number that is not finite; below it, floats order like their bits.
_FIRST_NON_FINITE = {mx.float32: 0x7F800000, mx.float16: 0x7C00, mx.bfloat16: 0x7F80}


@dataclass(frozen=True, slots=True)
class TensorJob:
    """One tensor of a converted file, and how it comes about.

    Attributes:
        move: source tensor, target name and layout.
        dtype: of the written numbers, in safetensors spelling.
        quantization: how to quantize it; None to leave it dense.
        merge: what adapters make of the whole tensor, float32 in the converted layout; None without adapters.
    """

    move: Move
    dtype: str
    quantization: QuantizationConfig | None = None
    merge: Callable[[mx.array], mx.array] | None = None

    @property
    def layer(self) -> str:
        """Path of the layer whose weight it is."""
        return self.move.target.removesuffix(".weight")

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Tensors that the file will hold: one, or the three of a quantized weight."""
        if self.quantization is None:
            return (TensorInfo(self.move.target, self.move.shape, self.dtype),)
        return quantized_infos(self.layer, self.move.shape, self.dtype, self.quantization)


def plan_jobs(
    moves: Iterable[Move],
    *,
    dtype: str | None = None,
    quantization: QuantizationConfig | None = None,
    is_quantized: ChooseLayer = is_quantized_layer,
) -> tuple[TensorJob, ...]:
    """Decide dtype and quantization of every tensor of a component.

    Args:
        moves: the component's tensors.
        dtype: of all written numbers, in safetensors spelling; None keeps each tensor's own (float32 for
            float64 and 8-bit floats, which MLX cannot write).
        quantization: for some of the layers; None leaves all dense.
        is_quantized: which layers these are.
    """
    jobs = []
    for move in moves:
        layer, is_weight = move.target.removesuffix(".weight"), move.target.endswith(".weight")
        packing = quantization if is_weight and is_quantized(layer) else None
        own = "F32" if move.info.dtype in WIDENED_DTYPES else move.info.dtype
        jobs.append(TensorJob(move, dtype or own, packing))
    return tuple(jobs)


def output_infos(jobs: Iterable[TensorJob]) -> list[TensorInfo]:
    """Every tensor of the file that the jobs make."""
    return [info for job in jobs for info in job.outputs]


def write_tensors(path: Path, source: TensorSource, jobs: Sequence[TensorJob]) -> Iterator[int]:
    """Make a converted file; each source tensor is read once, in chunks of a few megabytes.

    A chunk is read and unpacked on a thread while the one before is converted and written. A tensor into
    which adapters are merged is in memory whole: it is rounded and quantized once, afterwards.

    Args:
        path: the safetensors file to make.
        source: the component's tensors.
        jobs: what to write, as `plan_jobs` says.

    Yields:
        Bytes of tensors written so far, after each chunk.

    Raises:
        CheckpointError: a tensor holds numbers that are not finite, before or after the change of dtype, or
            is of a kind that cannot be converted, or a matrix holds nothing but zeros. No file is left.
        AdapterError: the numbers are not finite once adapters are merged.
    """
    _check_dtypes(source, jobs)
    done = 0
    parts = [(job, rows) for job in jobs for rows in _parts_to_read(job)]
    reads = read_ahead(parts, lambda part: source.read(part[0].move.info.name, part[1]))
    with SafetensorsWriter(path, output_infos(jobs)) as writer, closing(reads):
        for job in jobs:
            for written in _write_job(writer, source, job, reads):
                done += written
                yield done


def _write_job(
    writer: SafetensorsWriter, source: TensorSource, job: TensorJob, reads: Iterator[mx.array]
) -> Iterator[int]:
    """Write one tensor; yields the bytes of each chunk, and refuses it at the end if all of it was zero."""
    is_empty = must_hold_numbers(job.move.info)
    for _ in _parts_to_read(job):
        stored = next(reads)
        is_empty = is_empty and not has_numbers(stored)
        for chunk in _lay_out(job, stored):
            yield _write_chunk(writer, source, job, chunk)
            del chunk  # or it would stay in memory while the next is made
        del stored
    if is_empty:
        raise refuse_empty(source, job.move.info)


def _check_dtypes(source: TensorSource, jobs: Iterable[TensorJob]) -> None:
    for info in (job.move.info for job in jobs):
        if info.dtype not in _CONVERTIBLE_DTYPES:
            raise CheckpointError(
                f"{source.file_of(info.name).name}: {info.title} is {info.dtype}; only "
                f"{', '.join(_CONVERTIBLE_DTYPES)} can be converted. "
                "Use the bf16, fp16 or fp32 files of this model."
            )


def _row_slices(shape: tuple[int, ...]) -> Iterator[slice | None]:
    """Cut the first axis so that a chunk has at most CHUNK_BYTES in float32; None stands for a scalar."""
    if not shape:
        yield None
        return
    step = max(1, CHUNK_BYTES // max(4 * math.prod(shape[1:]), 1))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _parts_to_read(job: TensorJob) -> Iterator[slice | None]:
    """What is read of a tensor at once; None stands for all of it."""
    return _row_slices(job.move.info.shape) if job.merge is None else iter((None,))


def _lay_out(job: TensorJob, stored: mx.array) -> Iterator[mx.array]:
    """Chunks in the converted layout of what was read, before they are rounded to the file's dtype."""
    array = job.move.transform.apply(stored)
    if job.merge is None:
        yield array
        return
    merged = job.merge(array.astype(mx.float32))
    mx.eval(merged)
    for rows in _row_slices(job.move.shape):
        yield merged if rows is None else merged[rows]


def _read_chunks(source: TensorSource, job: TensorJob) -> Iterator[mx.array]:
    for rows in _parts_to_read(job):
        yield from _lay_out(job, source.read(job.move.info.name, rows))


def _write_chunk(writer: SafetensorsWriter, source: TensorSource, job: TensorJob, chunk: mx.array) -> int:
    """Convert and write a chunk; returns the bytes written."""
    written = _convert_chunk(source, job, chunk)
    for name, array in written:
        writer.write(name, array)
    return sum(array.nbytes for _, array in written)


def _convert_chunk(source: TensorSource, job: TensorJob, chunk: mx.array) -> list[tuple[str, mx.array]]:
    array = chunk.astype(_mlx_dtype(job.dtype))
    if not is_finite(array):
        raise _explain_non_finite(source, job)
    if job.quantization is None:
        return [(job.move.target, array)]
    # Quantized after the cast: the codes of the float32 source would differ.
    parts = quantize_rows(array, job.quantization)
    return [(info.name, part) for info, part in zip(job.outputs, parts, strict=True)]


def _mlx_dtype(name: str) -> mx.Dtype:
    dtype = DTYPES[name].mlx
    assert dtype is not None
    return dtype


def is_finite(array: mx.array) -> bool:
    """Whether no element is NaN or infinite; float32, float16 or bfloat16.

    Two integer maxima over the bits, several times as fast on a CPU as the elementwise test.
    """
    if not array.size:
        return True
    bits = np.array(array.view(mx.uint32 if array.itemsize == 4 else mx.uint16), copy=False)
    limit = _FIRST_NON_FINITE[array.dtype]
    sign = 1 << (8 * array.itemsize - 1)
    signed = bits.view(np.int32 if array.itemsize == 4 else np.int16)
    return int(signed.max()) < limit and int(bits.max()) < limit + sign


def _explain_non_finite(source: TensorSource, job: TensorJob) -> MLXVideoError:
    """Read the tensor again to tell a damaged source from a dtype too narrow for it."""
    name, title = job.move.info.name, job.move.info.title
    damaged = sum(_count_non_finite(source.read(name, rows)) for rows in _row_slices(job.move.info.shape))
    if damaged:
        return CheckpointError(
            f"{source.file_of(name).name}: {title} contains {damaged} numbers that are NaN or infinite: "
            "the file is damaged. Download it again."
        )
    dtype = _mlx_dtype(job.dtype)
    lost = sum(_count_non_finite(chunk.astype(dtype)) for chunk in _read_chunks(source, job))
    spelled = str(dtype).removeprefix("mlx.core.")
    cure = "float32" if spelled == "bfloat16" else "bfloat16"
    values = "value exceeds" if lost == 1 else "values exceed"
    if job.merge is not None:
        return AdapterError(
            f"{job.move.target}: {lost} {values} the {spelled} range once the adapters are merged. One of "
            "them is damaged, or its strength is too high: lower it."
        )
    return CheckpointError(
        f"--dtype {spelled}: {lost} {values} the {spelled} range in {title} of {source.file_of(name).name}. "
        f"Use {cure}."
    )


def _count_non_finite(array: mx.array) -> int:
    return int(np.count_nonzero(~np.array(mx.isfinite(array))))
