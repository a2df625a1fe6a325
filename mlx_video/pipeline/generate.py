"""From a request to a video: the stages one after another, a release between each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_video.checkpoint.model_folder import ModelFolder
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Event, FileWritten, FramesDecoded, StageFinished, StageStarted
from mlx_video.latents.decode import decode_frames, to_uint8, to_uint8_rounded
from mlx_video.latents.latents_file import save_latents
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.image import FrameFolderWriter
from mlx_video.media.open_image import open_image
from mlx_video.media.video import check_output, open_video_writer
from mlx_video.media.whole_file import check_file, check_folder
from mlx_video.memory.residency import release_memory, resident
from mlx_video.models.elementwise import enable_compile
from mlx_video.pipeline.components import check_vae_encoder, check_weights, load_vae_decoder
from mlx_video.pipeline.inputs import encode_frames, encode_texts, require_tokenizer
from mlx_video.pipeline.plan import ImageSize, check_inputs, plan_run
from mlx_video.pipeline.run import Run, Value, Work
from mlx_video.pipeline.sample import sample_latents
from mlx_video.request import GenerateRequest
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
        MediaError: an image cannot be read, or an output cannot be written.
    """
    require_tokenizer(model)
    variant = find_variant(config)
    check_inputs(request, variant)
    opened = [open_image(image) for image in (request.image, request.end_image) if image is not None]
    images = tuple(image.pixels for image in opened)
    plan = plan_run(request, config, variant, ImageSize(*images[0].shape[:2]) if images else None)
    notices = (*(notice for image in opened for notice in image.notices), *plan.notices)
    check_weights(model, config)
    if images:
        check_vae_encoder(model, config)
    check_outputs(request, plan.geometry.num_frames - request.trim_first_frames)
    return Run(model, config, variant, request, replace(plan, notices=notices), images)


def check_outputs(request: GenerateRequest, num_frames: int) -> None:
    """Make sure that every result can be written; creates their folders.

    Args:
        request: names the results.
        num_frames: frames that will be written.

    Raises:
        RequestError: two results have the same name, or the video's ending is unknown or a picture's.
        MediaError: a name is a folder's, or a folder takes no files.
    """
    owners: dict[Path, str] = {}
    for name in ("output_path", "save_frames", "save_latents"):
        path = getattr(request, name)
        owner = owners.setdefault(path.resolve(), name) if path else name
        if owner != name:
            flag = owner.replace("_", "-")
            raise RequestError(name, f"{path}: --{flag} has the same name. Choose another for one of them.")
    if request.output_path:
        check_output(request.output_path, num_frames)
    if request.save_frames:
        check_folder(request.save_frames)
    if request.save_latents:
        check_file(request.save_latents)


def generate(run: Run, extra_sinks: Sequence[FrameSink] = ()) -> Iterator[Event]:
    """Make one video.

    Args:
        run: from :func:`prepare_run`.
        extra_sinks: get the finished frames besides the files that the request names.

    Yields:
        What happens, in order; the last StepFinished holds the final latents.
    """
    enable_compile(None if run.request.compile else False)
    yield from run.plan.notices
    conditioning = yield from timed("text", encode_texts(run))
    if run.images:
        conditioning = yield from timed("image", encode_frames(run, conditioning))
    latents = yield from timed("denoise", sample_latents(run, conditioning))
    del conditioning
    yield from keep_latents(run, latents)
    yield from timed("decode", decode_video(run, latents, extra_sinks))
    yield from map(FileWritten, written_paths(run.request))


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
        yield from pass_frames(decode_frames(vae, latents), sinks, run)


def pass_frames(pieces: Iterable[mx.array], sinks: Sequence[FrameSink], run: Run) -> Iterator[FramesDecoded]:
    """Give each piece of frames to every sink, without those that the user wants trimmed."""
    total, trim, done = run.plan.geometry.num_frames, run.request.trim_first_frames, 0
    to_bytes = to_uint8_rounded if total == 1 else to_uint8  # a single frame is a picture, not a video
    for piece in pieces:
        frames = to_bytes(piece)
        for sink in sinks:
            sink.write(frames[max(0, trim - done) :])
        done += len(frames)
        yield FramesDecoded(done, total)


def open_sinks(run: Run) -> Iterator[FrameWriter]:
    """The files that the request names, opened for writing."""
    request, settings = run.request, run.settings()
    width, height = run.plan.geometry.width, run.plan.geometry.height
    if request.output_path:
        yield open_video_writer(request.output_path, width, height, run.plan.fps, settings)
    if request.save_frames:
        yield FrameFolderWriter(request.save_frames, width, height, settings)


def written_paths(request: GenerateRequest) -> Iterator[Path]:
    """The finished results of a request; the video comes last."""
    for path in (request.save_frames, request.output_path):
        if path:
            yield path
