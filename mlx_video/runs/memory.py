"""The memory plan of one run, and the limits that hold MLX to it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from mlx_video.conditioning.sources import SOURCE_PICTURES, SOURCE_VIDEO, count_source_frames
from mlx_video.conditioning.text import most_tokens
from mlx_video.conditioning.units import count_read_images
from mlx_video.errors import MemoryBudgetError
from mlx_video.events import Notice
from mlx_video.models.dispatch import current_limits, use_limits
from mlx_video.planning.budget import GB, find_budget, find_machine
from mlx_video.planning.choices import TEXT_ENCODER, KeptNetwork, MemoryChoices
from mlx_video.planning.fitting import fit_memory
from mlx_video.planning.keeping import keep_networks, used_networks
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.memory_task import Host, MemoryTask
from mlx_video.planning.mlx_limits import MLXLimits, plan_limits
from mlx_video.planning.model_sizes import ModelSizes, read_model_sizes, read_vae_sizes
from mlx_video.planning.preview_memory import PreviewMaker
from mlx_video.planning.stage_plans import plan_text
from mlx_video.runs.inputs import encodes_inputs, needed_units, unit_inputs
from mlx_video.runs.networks import is_called, network_key
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.previews import takes_tiny_decoder
from mlx_video.runs.stages.colours import fits_colours
from mlx_video.sampling.context_windows import most_windows

ANY_PROMPT = "any prompt of any length " * 100
"""Stands for a prompt that is not known: it is planned as the longest that a model reads."""
LAST_IMAGE_FRAMES = 5
"""Frames of the shortest video that has a last image besides the first."""


def with_memory_plan(run: Run) -> Run:
    """A run with its memory planned for this machine and its limits, from the headers of the model's files.

    Raises:
        MemoryBudgetError: a stage needs more than there is, whatever stays in memory.
        CheckpointError: a file is damaged.
    """
    with use_limits(run.limits):
        memory_plan = plan_of(run)
    notices = tuple(map(Notice, memory_plan.notices))
    plan = replace(run.plan, memory=memory_plan.choices, notices=notices)
    return replace(run, plan=plan, memory_plan=memory_plan)


def plan_of(run: Run) -> MemoryPlan:
    """The plan of :func:`with_memory_plan`, with the run's notices and those on memory; raises the same."""
    host = replace(_with_kept_free(find_host(run.request.memory_limit), run), limits=run.limits)
    task = find_task(run)
    plan = _with_kept(fit_memory(task, host), task, run)
    # A limit of the user's makes good what the system does not tell.
    untold = host.machine.notices if run.request.memory_limit is None else ()
    return replace(plan, notices=(*(notice.text for notice in run.plan.notices), *untold))


def with_text_plan(run: Run) -> Run:
    """A run of which only texts are encoded; what is in memory already stays where it fits beside that.

    Raises:
        MemoryBudgetError: the text encoder needs more than there is, one block at a time.
        CheckpointError: a file is damaged.
    """
    host = replace(_with_kept_free(find_host(run.request.memory_limit), run), limits=run.limits)
    with use_limits(run.limits):
        stage = plan_text(find_task(run), host)
    needed, budget = stage.peak.needed, host.budget
    if not stage.fits(budget):
        raise MemoryBudgetError(
            f"{stage.name} needs {needed / GB:.3g} GB ({stage.holds}), the budget is "
            f"{budget.nbytes / GB:.3g} GB ({budget.reason}). Allow more with --memory-limit, or give a "
            "shorter prompt."
        )
    idle = run.session.idle()
    stays = needed + sum(idle.values()) <= budget.nbytes
    kept: frozenset[Hashable] = frozenset(idle) if stays else frozenset()
    if network_key(run, TEXT_ENCODER) in kept:
        kept |= {TEXT_ENCODER}
    plan = MemoryPlan(host, MemoryChoices(kept=kept), (stage,))
    return replace(run, plan=replace(run.plan, memory=plan.choices), memory_plan=plan)


def _with_kept_free(host: Host, run: Run) -> Host:
    """A host whose available memory counts what this session holds and this run can use or release."""
    available, limit_gb = host.machine.available_bytes, run.request.memory_limit
    usable = sum(run.session.idle().values())
    own = {network_key(run, name) for name in run.model.transformers}
    usable += sum(nbytes for key, nbytes in run.session.lent().items() if key in own)
    if available is None or limit_gb is not None or not usable:
        return host
    machine = replace(host.machine, available_bytes=available + usable)
    return replace(host, machine=machine, budget=find_budget(machine))


def _with_kept(plan: MemoryPlan, task: MemoryTask, run: Run) -> MemoryPlan:
    """A plan that also says which networks stay in memory; none does without a session that keeps any."""
    session = run.session
    if not session.keeps:
        return plan
    fitted = replace(run, plan=replace(run.plan, memory=plan.choices))
    names = used_networks(task)
    own = {network_key(fitted, name): name for name in names}
    # Of a network of this run no other version stays: with other adapters, say, or otherwise streamed.
    others = [
        KeptNetwork(key, key.name, size) for key, size in session.idle().items() if key.name not in names
    ]
    occupied = sum(size for key, size in session.lent().items() if key not in own)
    held = {name for key, name in own.items() if session.holds(key)}
    return keep_networks(plan, task, held, others[::-1], occupied)


def find_host(limit_gb: float | None) -> Host:
    """The machine of this process.

    Args:
        limit_gb: what the user allows; None for what there is.
    """
    machine = find_machine()
    return Host(machine, find_budget(machine, limit_gb), current_limits())


def find_task(run: Run) -> MemoryTask:
    """A run, as far as its memory depends on it."""
    request, plan = run.request, run.plan
    only_decodes = request.decode_only is not None
    units = () if only_decodes else needed_units(run)
    texts = unit_inputs(run).texts
    least_frames = 1 if request.end_image is None else LAST_IMAGE_FRAMES
    return MemoryTask(
        sizes=_read_sizes(run, only_decodes),
        geometry=plan.geometry,
        text_lengths=tuple(min(run.config.transformer.text_len, most_tokens(text)) for text in texts),
        leading_frames=plan.leading_frames,
        num_passes=max(plan.recipe.most_passes, len(plan.recipe.prompts)) if plan.recipe else 1,
        num_prompts=len(plan.recipe.prompts) if plan.recipe else None,
        cache_bytes=plan.recipe.step_cache.stream_bytes if plan.recipe and plan.recipe.step_cache else 0,
        num_images=count_read_images(run.config.transformer, len(run.images)),
        num_videos=max(len(run.videos), not only_decodes and encodes_inputs(run)),
        reads_image_tokens=any("image_tokens" in unit.owns for unit in units),
        reference_frames=_count_read_frames(run),
        hears_sound=any(unit.stage == "audio" for unit in units),
        num_samples=len(run.sound.samples) if run.sound else 0,
        keeps_both=run.config.is_dual and request.experts == "parallel",
        adapter_bytes=max((adapters.nbytes for adapters in run.adapters.values()), default=0),
        stream=request.stream,
        tiling=request.tiling,
        only_decodes=only_decodes,
        takes_steps=request.takes_steps,
        least_frames=max(least_frames, request.trim_first_frames + 1),
        previews=_find_previews(run),
        fits_colours=not only_decodes and fits_colours(run),
        decoder=request.decoder,
        division=run.division,
        blocks=plan.blocks,
        remembered_frames=plan.tail_frames if request.longcat_kv_cache and not plan.windows else 0,
        sees_blocks=any("refining_add_on" in unit.owns for unit in units),
        **_find_windows(run),
    )


def _count_read_frames(run: Run) -> int:
    """Token frames that a forward only reads, beside those of the video."""
    sizes = [(len(pixels), pixels.shape[1]) for pixels in run.pictures.get(SOURCE_PICTURES, ())]
    sources = count_source_frames(run.plan.geometry, sizes, has_video=SOURCE_VIDEO in run.videos)
    return run.variant.network.read_frames(run.config.transformer) + sources


def _find_previews(run: Run) -> PreviewMaker:
    if run.request.preview is None or run.request.decode_only:
        return "none"
    return "tiny" if takes_tiny_decoder(run) else "colours"


def _find_windows(run: Run) -> dict[str, Any]:
    """Frames that a forward sees, and forwards of a pass of a step; neither for a video as a whole."""
    windows, geometry = run.plan.windows, run.plan.geometry
    if windows is None:
        return {}
    # With images, the first frame stands before the others.
    seen = windows.size + bool(run.images)
    return {
        "window_frames": seen,
        "num_windows": most_windows(windows, geometry.latent_shape[1], run.plan.steps),
    }


def _read_sizes(run: Run, only_decodes: bool) -> ModelSizes:
    """Sizes of the networks that work in a run."""
    if only_decodes:
        return read_vae_sizes(run.model, run.config)
    sizes = read_model_sizes(run.model, run.config)
    parts = {name: part for name, part in sizes.parts.items() if is_called(run.request, name)}
    return replace(sizes, parts=parts)


def planned_limits(run: Run) -> MLXLimits | None:
    """The limits that hold MLX to a run's memory plan; None where memory was not planned."""
    plan = run.memory_plan
    if plan is None:
        return None
    return plan_limits(plan.host.machine, plan.host.budget, max(plan.predicted.values()), plan.cache_bytes)
