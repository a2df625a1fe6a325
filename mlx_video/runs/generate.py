"""From a request to a video: the stages one after another, a release between each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.units import build_conditioning, fill_conditioning
from mlx_video.config import ModelConfig
from mlx_video.events import (
    Event,
    FileWritten,
    FramesDecoded,
    MemoryPlanned,
    Notice,
    StageFinished,
    StageStarted,
    TilesDecoded,
)
from mlx_video.latents.decode import decode_pieces, to_uint8, to_uint8_rounded
from mlx_video.latents.latents_file import save_latents
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.adapters import read_all_adapters
from mlx_video.loading.components import check_vae_encoder, check_weights, load_vae_decoder
from mlx_video.loading.residency import release_memory, resident
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.image import FrameFolderWriter
from mlx_video.media.open_image import open_image
from mlx_video.media.video import open_video_writer
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.request import IMAGE_INPUTS, GenerateRequest
from mlx_video.runs.decode_only import prepare_decoding
from mlx_video.runs.device_check import held_to_limits, with_safe_limits
from mlx_video.runs.files_read import files_read
from mlx_video.runs.inputs import (
    ModelEncoders,
    report_missing_tokenizer,
    unit_inputs,
    with_tokenizer,
)
from mlx_video.runs.memory import plan_of, planned_limits, with_memory_plan
from mlx_video.runs.outputs import check_outputs, check_scratch_space
from mlx_video.runs.run import Run, Value, Work
from mlx_video.runs.sample import sample_latents
from mlx_video.runs.settings import ImageSize, check_inputs, plan_run, report_distilled, report_unlike_prompt
from mlx_video.runs.state.resume import find_start, forget_state, report_start, way_on_noted
from mlx_video.variants.registry import find_variant


class FrameSink(Protocol):
    """Takes frames as they are decoded."""

    def write(self, frames: np.ndarray) -> None:
        """Take uint8 frames [f, H, W, 3]."""


def prepare_run(request: GenerateRequest, model: ModelFolder, config: ModelConfig) -> Run:
    """Settle the settings and check files and outputs, before anything heavy is loaded.

    Raises:
        CheckpointError: the folder has no tokenizer, a weight file is damaged, or the VAE cannot read images.
        ConfigError: config.json contradicts the files.
        RequestError: the request does not fit the model, or an output name cannot be used.
        AdapterError: an adapter is damaged or does not fit the model.
        MediaError: an image cannot be read, or an output cannot be written.
        MemoryBudgetError: a stage needs more than there is, whatever stays in memory.
        DeviceError: an operation of the device gives wrong numbers, and there is no other way.
    """
    if request.decode_only:
        run = prepare_decoding(request, request.decode_only, model, config)
        check_outputs(request, run.plan.geometry, files_read(request, model))
        return fit_run(run)
    run = with_tokenizer(settle_run(request, model, config))
    check_outputs(request, run.plan.geometry, files_read(request, run.model))
    return find_start(fit_run(run))


def fit_run(run: Run) -> Run:
    """A run fitted to this machine: to what its device does rightly, its memory and its disk.

    Raises:
        DeviceError, MemoryBudgetError: as :func:`prepare_run`.
        MediaError: the disk of temporary files is too full.
    """
    run = with_memory_plan(with_safe_limits(run))
    if run.memory_plan:
        check_scratch_space(run.memory_plan.scratch_bytes, needs_tiles=run.memory_plan.needs_tiles)
    return run


def settle_run(request: GenerateRequest, model: ModelFolder, config: ModelConfig) -> Run:
    """Settle the settings of a run; nothing is downloaded, written or computed, few weights are read.

    Raises:
        CheckpointError, ConfigError, RequestError, AdapterError: as :func:`prepare_run`.
        MediaError: an image cannot be read.
    """
    variant = find_variant(config)
    check_inputs(request, variant)
    given = {name: image for name in IMAGE_INPUTS if (image := getattr(request, name)) is not None}
    opened = {name: open_image(image) for name, image in given.items()}
    images = {name: image.pixels for name, image in opened.items()}
    first = next(iter(images.values()), None)
    plan = plan_run(request, config, variant, None if first is None else ImageSize(*first.shape[:2]))
    of_images = (notice for image in opened.values() for notice in image.notices)
    notices = (*map(Notice, model.notices), *of_images, *plan.notices)
    check_weights(model, config)
    adapters, adapter_notices = read_all_adapters(request, config)
    notices = (*notices, *adapter_notices, *report_distilled(request, plan))
    if images:
        check_vae_encoder(model, config)
    return Run(model, config, variant, request, replace(plan, notices=notices), images, adapters)


def plan_generation(request: GenerateRequest, model: ModelFolder, config: ModelConfig) -> MemoryPlan:
    """What a run of this request would keep in memory; nothing is downloaded, written or computed.

    Raises:
        MLXVideoError: as :func:`prepare_run`; neither the device nor outputs are checked.
    """
    if request.decode_only:
        return plan_of(prepare_decoding(request, request.decode_only, model, config))
    run = settle_run(request, model, config)
    notices = (*report_missing_tokenizer(model), *run.plan.notices)
    return plan_of(replace(run, plan=replace(run.plan, notices=notices)))


def generate(run: Run, extra_sinks: Sequence[FrameSink] = ()) -> Iterator[Event]:
    """Make one video.

    Args:
        run: from :func:`prepare_run`.
        extra_sinks: get the finished frames besides the files that the request names.

    Yields:
        What happens, in order; the last StepFinished holds the final latents.

    Raises:
        MLXVideoError: something failed; where a state of the run is kept, a note says how to go on.
    """
    yield from run.plan.notices
    yield from report_unlike_prompt(run.request, run.variant)
    if run.memory_plan:
        yield MemoryPlanned(run.memory_plan.predicted)
    with way_on_noted(run):
        yield from within_limits(run, make_video(run, extra_sinks))
    yield from forget_state(run)
    yield from map(FileWritten, written_paths(run.request))


def within_limits(run: Run, work: Work[None]) -> Iterator[Event]:
    """Let work go on under the run's limits, which are not in force while the caller has an event.

    MLX's own limits stay until another run goes on, or this one ends.
    """
    limits = planned_limits(run)
    try:
        while True:
            with held_to_limits(run):
                if limits:
                    limits.hold()
                try:
                    event = next(work)
                except StopIteration:
                    return
            yield event
    finally:
        with held_to_limits(run):
            work.close()
        if limits:
            limits.release()
        release_memory()


def make_video(run: Run, extra_sinks: Sequence[FrameSink]) -> Work[None]:
    """Take the stages one after another."""
    yield from report_start(run)
    latents = run.finished_latents
    if latents is None:
        latents = yield from make_latents(run)
    yield from keep_latents(run, latents)
    yield from timed("decode", decode_video(run, latents, extra_sinks))


def make_latents(run: Run) -> Work[mx.array]:
    """Prompt, images and noise become latents [C, T, H, W]."""
    inputs, encoders = unit_inputs(run), ModelEncoders(run)
    fields: dict[str, object] = {}
    needed = [unit for unit in run.variant.units if unit.is_needed(inputs)]
    for stage, units in groupby(needed, key=lambda unit: unit.stage):
        fields |= yield from timed(stage, fill_conditioning([*units], inputs, encoders))
    return (yield from timed("denoise", sample_latents(run, build_conditioning(fields))))


def timed(stage: str, work: Work[Value]) -> Work[Value]:
    """Report a stage's begin, end, time and peak memory around its work; memory is released after it."""
    yield StageStarted(stage)
    mx.reset_peak_memory()
    started = time.perf_counter()
    value = yield from work
    seconds, peak = time.perf_counter() - started, mx.get_peak_memory()
    release_memory()
    yield StageFinished(stage, seconds, peak)
    return value


def keep_latents(run: Run, latents: mx.array) -> Iterator[Event]:
    """Write the final latents where the user asked for them."""
    path = run.request.save_latents
    if path:
        save_latents(path, latents, run.settings())
        yield FileWritten(path)


def decode_video(run: Run, latents: mx.array, extra_sinks: Sequence[FrameSink]) -> Work[None]:
    """Decode latents and hand the frames to every output as they come."""
    with ExitStack() as stack:
        sinks = [*extra_sinks, *(stack.enter_context(sink) for sink in open_sinks(run))]
        vae = stack.enter_context(resident(lambda: load_vae_decoder(run.model, run.config)))
        pieces = decode_pieces(vae, latents, tile=run.plan.memory.decode_tile)
        yield from pass_frames(pieces, sinks, run)


def pass_frames(
    pieces: Iterable[mx.array | TilesDecoded], sinks: Sequence[FrameSink], run: Run
) -> Iterator[FramesDecoded | TilesDecoded]:
    """Give each piece of frames to every sink, without those that the user wants trimmed."""
    total, trim, done = run.plan.geometry.num_frames, run.request.trim_first_frames, 0
    to_bytes = to_uint8_rounded if total == 1 else to_uint8  # a single frame is a picture, not a video
    for piece in pieces:
        if isinstance(piece, TilesDecoded):
            yield piece
            continue
        frames = to_bytes(piece)
        for sink in sinks:
            sink.write(frames[max(0, trim - done) :])
        done += len(frames)
        yield FramesDecoded(done, total)


def open_sinks(run: Run) -> Iterator[FrameWriter]:
    """The files that the request names, opened for writing."""
    request, settings = run.request, run.settings()
    width, height = run.plan.geometry.output_size
    if request.output_path:
        yield open_video_writer(request.output_path, width, height, run.plan.fps, settings)
    if request.save_frames:
        yield FrameFolderWriter(request.save_frames, width, height, settings)


def written_paths(request: GenerateRequest) -> Iterator[Path]:
    """The finished results of a request; the video comes last."""
    for path in (request.save_frames, request.output_path):
        if path:
            yield path
