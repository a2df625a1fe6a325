"""A run on its way to the machines that help with its steps: everything but its inputs and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import KeptFrames
from mlx_video.conditioning.types import Conditioning
from mlx_video.config import ModelConfig
from mlx_video.distributed.values import pack, unpack
from mlx_video.errors import ClusterError
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.adapters import read_all_adapters, widen_config
from mlx_video.loading.session import Session
from mlx_video.planning.choices import MemoryChoices
from mlx_video.request import GenerateRequest
from mlx_video.runs.cluster.step_split import StepSplit
from mlx_video.runs.generate import fit_run
from mlx_video.runs.opened_inputs import find_shown
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.measured_file import read_measured
from mlx_video.runs.settings import RunPlan, ShownSize, plan_run
from mlx_video.variants.registry import find_variant

_OWN_TO_RANK_0: Mapping[str, object] = {
    "output_path": None,
    "output_type": "video",
    "save_frames": None,
    "save_latents": None,
    "profile": None,
    "preview": None,
    "resume": False,
    "keep_state": False,
}
"""Options of what rank 0 writes and shows, as others have them."""

_GIVEN = Path("given")
"""In place of a picture or video that is in the memory of rank 0; no other machine opens it."""


@dataclass(frozen=True, slots=True)
class TravellingRun:
    """A run as it is sent.

    Attributes:
        request: of the run, without what rank 0 alone does.
        shown: size of its image or video.
        images: names of the given images.
        settled: what its plan came to, as text, to be compared.
        order: how its blocks take turns, in words, where machines make each branch together.
    """

    request: GenerateRequest
    shown: ShownSize | None
    images: tuple[str, ...]
    settled: str
    order: str | None = None


def pack_run(run: Run, conditioning: Conditioning, *, is_joint: bool) -> tuple[Any, list[mx.array]]:
    """A run and its conditioning as JSON, and the arrays that belong to it.

    Args:
        run: of rank 0.
        conditioning: of it.
        is_joint: whether machines make each branch together.

    Raises:
        ClusterError: an input cannot be sent.
    """
    request = replace(run.request, **_OWN_TO_RANK_0)  # type: ignore[arg-type]
    travelling = TravellingRun(
        request,
        find_shown(run.images, run.videos, run.variant.inputs.sized_by),
        tuple(run.images),
        describe_plan(run.plan),
        _describe_order(run.plan.memory) if is_joint else None,
    )
    arrays: list[mx.array] = []
    try:
        packed = [pack(travelling, arrays, lambda value: _GIVEN), pack(conditioning, arrays, _keep_frames)]
    except ValueError as error:
        raise ClusterError(
            f"An input of this run cannot be sent to other machines ({error}). Use --parallel data, or one "
            "machine."
        ) from error
    mx.eval(arrays)
    return packed, arrays


def _keep_frames(value: object) -> KeptFrames:
    """A clip that is read as it is needed, all of it."""
    if not callable(value):
        raise ValueError(f"{type(value).__name__} does not go to another process")
    return KeptFrames(np.stack([*value()]))


def unpack_run(
    packed: Any,
    arrays: list[mx.array],
    model: ModelFolder,
    config: ModelConfig,
    session: Session,
    split: StepSplit,
) -> tuple[Run, Conditioning]:
    """The run and its conditioning as this machine takes part in them.

    Raises:
        ClusterError: it would come to other settings here.
        MLXVideoError: as `runs.generate.settle_run` and `fit_run`.
    """
    travelling, conditioning = (unpack(each, arrays) for each in packed)
    request = travelling.request
    adapters, _ = read_all_adapters(request, config)
    config = widen_config(config, adapters)
    variant = find_variant(config)
    measured = read_measured(model.path) if request.step_cache == "magcache" else ()
    plan = plan_run(request, config, variant, travelling.shown, measured)
    if describe_plan(plan) != travelling.settled:
        raise ClusterError(
            f"this machine settles the run as {describe_plan(plan)}, rank 0 as {travelling.settled}. Give "
            "the settings that differ as options."
        )
    blank = np.zeros((plan.geometry.height, plan.geometry.width, 3), np.uint8)
    images = dict.fromkeys(travelling.images, blank)
    run = Run(model, config, variant, request, plan, images, adapters=adapters, session=session)
    run = fit_run(replace(run, weights=split.weights, division=split.division))
    order = _describe_order(run.plan.memory)
    if travelling.order not in (None, order):
        raise ClusterError(
            f"this machine would go through {order}, rank 0 through {travelling.order}. Give --stream on, "
            "or close what takes its memory."
        )
    return run, conditioning


def _describe_order(memory: MemoryChoices) -> str:
    """What decides in which order a step's passes go through the blocks."""
    if memory.resident_blocks is None:
        return "all blocks of each pass in memory"
    return f"streamed blocks, {memory.windows_at_once} windows at once"


def describe_plan(plan: RunPlan) -> str:
    """What decides the steps of a run, as text."""
    recipe = plan.recipe
    assert recipe is not None  # only a run that decodes has none
    parts = {each.name: getattr(plan, each.name) for each in fields(plan) if each.name in _COMPARED}
    sigmas = [f"{float(sigma):.9g}" for sigma in np.asarray(recipe.schedule.sigmas)]
    told = (*parts.items(), *recipe.settings.items(), ("solver", recipe.solver), ("sigmas", " ".join(sigmas)))
    return ", ".join(f"{name} {value}" for name, value in told)


_COMPARED = ("geometry", "steps", "shift", "guide_scale", "boundary", "windows")
