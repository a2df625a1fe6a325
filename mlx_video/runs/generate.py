"""From a request to a video: settled, planned, and made stage by stage under the run's limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import FileWritten, MemoryPlanned, Value, Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.adapters import read_all_adapters, widen_config
from mlx_video.loading.components import check_weights
from mlx_video.loading.residency import release_memory
from mlx_video.loading.session import Session
from mlx_video.loading.vae_halves import check_vae_encoder
from mlx_video.planning.division import UNDIVIDED, Division
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.mlx_limits import MLXLimits
from mlx_video.planning.turns import turn
from mlx_video.request import GenerateRequest
from mlx_video.request.speech import frames_of_clip
from mlx_video.runs.continuation import count_all_frames, settle_continuing
from mlx_video.runs.decode_only import check_decoder, prepare_decoding
from mlx_video.runs.device_check import held_to_limits, with_safe_limits
from mlx_video.runs.files_read import files_read
from mlx_video.runs.input_checks import check_inputs, check_parts
from mlx_video.runs.inputs import encodes_frames, report_missing_tokenizer, with_tokenizer
from mlx_video.runs.memory import plan_of, planned_limits, with_memory_plan
from mlx_video.runs.modes import make_video, mode_of
from mlx_video.runs.opened_inputs import check_camera_path, check_videos, open_inputs
from mlx_video.runs.outputs import check_outputs, check_scratch_space
from mlx_video.runs.profile import Profile, profiled
from mlx_video.runs.run import Run
from mlx_video.runs.settings import report_unlike_prompt
from mlx_video.runs.sharing import StepSharing
from mlx_video.runs.stages.decode import FrameSink
from mlx_video.runs.state.resume import find_start, forget_state, report_start
from mlx_video.runs.work import describe_work
from mlx_video.variants.registry import find_variant


@turn()
def prepare_run(
    request: GenerateRequest,
    model: ModelFolder,
    config: ModelConfig,
    session: Session | None = None,
    sharing: StepSharing | None = None,
) -> Run:
    """Settle the settings and check files and outputs, before anything heavy is loaded.

    Args:
        request: what the user asked for.
        model: the converted folder.
        config: what its config.json says.
        session: keeps networks from run to run; None for one of this run alone, which keeps none.
        sharing: lets other machines take part in the steps; None for this one alone.

    Raises:
        CheckpointError: the folder has no tokenizer, a weight file is damaged, or the VAE cannot read images.
        ConfigError: config.json contradicts the files.
        RequestError: the request does not fit the model, or an output name cannot be used.
        AdapterError: an adapter is damaged or does not fit the model.
        MediaError: an image cannot be read, or an output cannot be written.
        MemoryBudgetError: a stage needs more than there is, whatever stays in memory.
        DeviceError: an operation of the device gives wrong numbers, and there is no other way.
    """
    if request.parallel != "auto" and sharing is None:
        raise RequestError(
            "parallel",
            f"{request.parallel}: needs other machines, and this process works by itself. Start the command "
            "with mlx.launch, or leave the option out.",
        )
    run = settle(request, model, config, session)
    if sharing is not None:
        run = replace(run, sharing=sharing, weights=sharing.weights, division=sharing.division)
    if request.profile:
        run = replace(run, profile=Profile(request.profile))
    is_new = run.finished_latents is None
    if is_new and request.takes_steps:
        run = with_tokenizer(run)
    made = replace(request, segments=run.request.segments)
    check_outputs(made, run.plan.geometry, files_read(request, run.model), count_all_frames(run))
    run = fit_run(run)
    # A video whose inputs make several parts has a start in each of these.
    is_whole = run.request.segments == request.segments
    return find_start(run) if is_new and is_whole else run


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


def settle(
    request: GenerateRequest, model: ModelFolder, config: ModelConfig, session: Session | None = None
) -> Run:
    """Settle the settings of a run in the mode that the request asks for; raises as the mode's own."""
    if request.decode_only:
        run = prepare_decoding(request, request.decode_only, model, config)
    else:
        run = settle_run(request, model, config)
    check_decoder(run)
    return run if session is None else replace(run, session=session)


def settle_run(request: GenerateRequest, model: ModelFolder, config: ModelConfig) -> Run:
    """Settle the settings of a run; nothing is downloaded, written or computed, few weights are read.

    Raises:
        CheckpointError, ConfigError, RequestError, AdapterError: as :func:`prepare_run`.
        MediaError: an image or a video cannot be read.
    """
    variant = find_variant(config)
    request = replace(request, num_frames=frames_of_clip(request.infer_frames, request.num_frames))
    request, going_on = settle_continuing(request, variant, config)
    if variant.settle:
        check_inputs(request, variant)  # before what decides is opened
        request = variant.settle(request, config)
    adapters, adapter_notices = read_all_adapters(request, config)
    stored, config = config, widen_config(config, adapters)
    variant = find_variant(config)
    check_inputs(request, variant)  # before any image is opened
    check_parts(request, model)
    run = open_inputs(request, model, config, variant, going_on)
    plan = check_videos(run)
    check_camera_path(run)
    check_weights(model, stored)
    plan = replace(plan, notices=(*plan.notices, *adapter_notices))
    run = replace(run, plan=plan, adapters=adapters)
    if encodes_frames(run):
        check_vae_encoder(model, config)
    return run


@turn()
def plan_generation(
    request: GenerateRequest,
    model: ModelFolder,
    config: ModelConfig,
    session: Session | None = None,
    division: Division = UNDIVIDED,
) -> MemoryPlan:
    """What a run of this request would keep in memory; nothing is downloaded, written or computed.

    Args:
        request, model, config, session: as of :func:`prepare_run`.
        division: what one of several machines has in memory of a transformer's work.

    Raises:
        MLXVideoError: as :func:`prepare_run`; neither the device nor outputs are checked.
    """
    run = replace(settle(request, model, config, session), division=division)
    if run.finished_latents is None:
        notices = (*report_missing_tokenizer(model), *run.plan.notices)
        run = replace(run, plan=replace(run.plan, notices=notices))
    return plan_of(run)


def generate(run: Run, extra_sinks: Sequence[FrameSink] = ()) -> Work[mx.array]:
    """Make one video.

    Args:
        run: from :func:`prepare_run`.
        extra_sinks: get the finished frames besides the files that the request names.

    Yields:
        What happens, in order.

    Returns:
        The final latents [C, T, H, W], float32.

    Raises:
        MLXVideoError: something failed; the last `StateSaved` says how to go on.
    """
    yield from run.plan.notices
    yield from report_unlike_prompt(run.request, run.variant)
    if run.memory_plan:
        kept = tuple(network.title for network in run.memory_plan.kept)
        yield MemoryPlanned(run.memory_plan.predicted, run.memory_plan.reused, kept)
    yield from report_start(run)
    yield describe_work(run, mode_of(run))
    latents = yield from within_limits(run, profiled(run.profile, make_video(run, extra_sinks)))
    yield from forget_state(run)
    yield from map(FileWritten, written_paths(run.request))
    return latents


def within_limits(run: Run, work: Work[Value]) -> Work[Value]:
    """Let work go on under the run's limits, which are not in force while the caller has an event.

    MLX's own limits stay until another run goes on, or this one ends.
    """
    limits = planned_limits(run) or MLXLimits({})
    try:
        return (yield from limits.in_force(on_device(run, work)))
    finally:
        release_memory()


def on_device(run: Run, work: Work[Value]) -> Work[Value]:
    """Let work go on with what the device does rightly, in dispatches that it does not give up on."""
    try:
        while True:
            with held_to_limits(run):
                try:
                    event = next(work)
                except StopIteration as end:
                    return end.value
            yield event
    finally:
        with held_to_limits(run):
            work.close()


def written_paths(request: GenerateRequest) -> Iterator[Path]:
    """The finished results of a request; the video comes last. Latents are told of when they are written."""
    for path in (request.profile, request.frames_path, request.video_path):
        if path:
            yield path
