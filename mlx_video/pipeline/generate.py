"""From a request to a video: the stages one after another, a release between each."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import mlx.core as mx
import numpy as np

from mlx_video.checkpoint.model_folder import ModelFolder
from mlx_video.conditioning.text import PromptTokenizer, count_tokens, encode_prompt, load_tokenizer
from mlx_video.conditioning.types import Conditioning
from mlx_video.config import ModelConfig
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import (
    Event,
    FileWritten,
    FramesDecoded,
    Notice,
    StageFinished,
    StageStarted,
    StepFinished,
)
from mlx_video.latents.decode import decode_frames, to_uint8
from mlx_video.latents.latents_file import save_latents
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.image import FrameFolderWriter
from mlx_video.media.video import check_output, open_video_writer
from mlx_video.media.whole_file import check_file, check_folder
from mlx_video.memory.residency import release_memory, resident
from mlx_video.models.elementwise import enable_compile
from mlx_video.models.transformer import WanTransformer
from mlx_video.pipeline.components import (
    check_weights,
    load_text_encoder,
    load_transformer,
    load_vae_decoder,
)
from mlx_video.pipeline.plan import RunPlan, describe_run, plan_run
from mlx_video.request import GenerateRequest
from mlx_video.sampling.denoise import denoise
from mlx_video.sampling.guidance import Velocity, guided
from mlx_video.sampling.noise import draw_noise
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.solvers import build_solver
from mlx_video.variants.registry import find_variant

Value = TypeVar("Value")
Work = Generator[Event, None, Value]


class FrameSink(Protocol):
    """Takes frames as they are decoded."""

    def write(self, frames: np.ndarray) -> None:
        """Take uint8 frames [f, H, W, 3]."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's model, request and settled settings."""

    model: ModelFolder
    config: ModelConfig
    request: GenerateRequest
    plan: RunPlan

    def settings(self) -> dict[str, str]:
        """Everything that made this video, as text."""
        return describe_run(self.request, self.plan, self.config.variant or self.model.path.name)


def prepare_run(request: GenerateRequest, model: ModelFolder, config: ModelConfig) -> Run:
    """Settle the settings and check files and outputs, before anything heavy is loaded.

    Raises:
        CheckpointError: the folder has no tokenizer, or a weight file is damaged.
        ConfigError: config.json contradicts the files.
        RequestError: the request does not fit the model, or an output name cannot be used.
        MediaError: an output cannot be written.
    """
    require_tokenizer(model)
    check_weights(model, config)
    run = Run(model, config, request, plan_run(request, config, find_variant(config)))
    check_outputs(request)
    return run


def check_outputs(request: GenerateRequest) -> None:
    """Make sure that every result can be written; creates their folders.

    Raises:
        RequestError: two results have the same name, or the video's has an unknown ending.
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
        check_output(request.output_path)
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


def encode_texts(run: Run) -> Work[Conditioning]:
    """Encode the prompt and, where guidance needs it, the negative prompt."""
    tokenizer = load_tokenizer(require_tokenizer(run.model), run.config.text_encoder.vocab_size)
    text_len = run.config.transformer.text_len
    yield from report_cut_texts(run.request, tokenizer, text_len)
    with resident(lambda: load_text_encoder(run.model, run.config)) as encoder:
        context = encode_prompt(encoder, tokenizer, run.request.prompt, text_len)
        negative = None
        if run.plan.negative_prompt is not None:
            negative = encode_prompt(encoder, tokenizer, run.plan.negative_prompt, text_len)
        mx.eval(context, negative)
    return Conditioning(context, negative)


def report_cut_texts(
    request: GenerateRequest, tokenizer: PromptTokenizer, max_tokens: int
) -> Iterator[Notice]:
    """Say so where the end of a text that the user wrote will not be read."""
    for name, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        count = count_tokens(tokenizer, text or "")
        if count > max_tokens:
            yield Notice(f"The {name} has {count} tokens, the model reads {max_tokens}: its end is left out.")


def require_tokenizer(model: ModelFolder) -> Path:
    """The folder's tokenizer.

    Raises:
        CheckpointError: it has none, as some folders of other tools.
    """
    if model.tokenizer is None:
        raise CheckpointError(
            f"{model.path}: has no tokenizer.json or spiece.model. Copy the files of google/umt5-xxl "
            f"from the original checkpoint into {model.path / 'tokenizer'}."
        )
    return model.tokenizer


def sample_latents(run: Run, conditioning: Conditioning) -> Work[mx.array]:
    """Walk the noise down to latents [C, T, H, W]."""
    request, plan = run.request, run.plan
    noise = draw_noise(request.noise, request.seed, plan.geometry.latent_shape)
    schedule = build_schedule(request.scheduler, plan.steps, plan.shift)
    solver = build_solver(request.scheduler, schedule)
    latents = noise
    with resident(lambda: load_transformer(run.model, run.config)) as transformer:
        velocity = guide_transformer(transformer, conditioning, plan.guide_scale)
        for event in denoise(noise, schedule, solver, velocity):
            yield event
            if request.debug_latents:
                yield describe_latents(event)
            latents = event.latents
    return latents


def guide_transformer(
    transformer: WanTransformer, conditioning: Conditioning, guide_scale: float
) -> Velocity:
    """The velocity function of one transformer under guidance."""

    def predict(context: mx.array) -> Velocity:
        text = transformer.project_text(context)
        return lambda latents, step, timestep: transformer(
            latents, timestep, text, concat_latents=conditioning.concat_latents
        )

    negative = conditioning.negative_context
    return guided(predict(conditioning.context), None if negative is None else predict(negative), guide_scale)


def describe_latents(event: StepFinished) -> Notice:
    """Statistics of the latents after a step."""
    values = event.latents
    return Notice(
        f"step {event.index + 1}: timestep {event.timestep:.1f}, latents mean {mx.mean(values).item():+.4f}, "
        f"std {mx.std(values).item():.4f}, range {mx.min(values).item():+.3f} to {mx.max(values).item():+.3f}"
    )


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
    for piece in pieces:
        frames = to_uint8(piece)
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
