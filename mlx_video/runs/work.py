"""The work of a run, as far as its time depends on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlx_video.device.report import this_machine
from mlx_video.events import WorkPlanned
from mlx_video.models.block_context import Step
from mlx_video.request import LORA_FIELDS
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import Stage
from mlx_video.sampling.guidance import Branch
from mlx_video.sampling.recipe import Recipe


def describe_work(run: Run, stages: Sequence[Stage], *, runs_after: int = 0) -> WorkPlanned:
    """The work that a settled run has before it.

    Args:
        run: what is being made.
        stages: that it goes through.
        runs_after: how many like it follow.
    """
    recipe, geometry = run.plan.recipe, run.plan.geometry
    width, height = geometry.output_size
    steps = [recipe.schedule.step(index) for index in range(recipe.schedule.steps)] if recipe else []
    first = run.state.next_step if run.state else 0
    return WorkPlanned(
        stages=tuple(stage.name for stage in stages if stage.is_reported),
        step_weights=_weigh_steps(run, recipe, steps) if recipe else (),
        first_step=first,
        loading_steps=_loading_steps(run, recipe, steps, first) if recipe else (),
        # What the VAE does between blocks is no step's, and counts in the mean.
        weights_are_certain=_is_planned(recipe) and run.plan.blocks is None,
        decoded_pixels=width * height * geometry.num_frames,
        speed_key=_speed_key(run),
        decode_key=_digest(_decoding_facts(run)),
        runs_after=runs_after,
    )


def _weigh_steps(run: Run, recipe: Recipe, steps: list[Step]) -> tuple[float, ...]:
    """Forwards of every step; before the first of a block its context goes through the transformer too."""
    weights, blocks = [_weigh_step(run, recipe, step) for step in steps], run.plan.blocks
    if blocks is None:
        return tuple(weights)
    shares = (blocks.context_of(index) / blocks.frames for index in range(blocks.count))
    return tuple(weight for share in shares for weight in (weights[0] + share, *weights[1:]))


def _weigh_step(run: Run, recipe: Recipe, step: Step) -> float:
    """Forwards of a step, each block counted, over all context windows."""
    name = _transformer_of(recipe, step)
    branches = recipe.guidance[name].branches(step)
    return _num_windows(run, step) * sum(_weigh_branch(run, recipe, name, each, step) for each in branches)


def _weigh_branch(run: Run, recipe: Recipe, transformer: str, branch: Branch, step: Step) -> float:
    """Share of the blocks that work in a forward."""
    cache, blocks = recipe.step_cache, run.config.transformer.num_layers
    if cache and cache.leaves_out and cache.leaves_out(transformer, branch, step.index):
        return 0.0
    return 1.0 - len(branch.skip_layers) / blocks


def _num_windows(run: Run, step: Step) -> int:
    frames = run.plan.sampled_geometry.latent_shape[1]
    return len(run.plan.windows.of_step(step.index, frames)) if run.plan.windows else 1


def _transformer_of(recipe: Recipe, step: Step) -> str:
    return recipe.expert_split(step) if recipe.expert_split else "model"


def _loading_steps(run: Run, recipe: Recipe, steps: list[Step], start: int) -> tuple[int, ...]:
    """The first step that each transformer serves, of those from `start` on."""
    if run.plan.blocks:
        return (start,)
    first: dict[str, int] = {}
    for step in steps[start:]:
        first.setdefault(_transformer_of(recipe, step), step.index)
    return tuple(first.values())


def _is_planned(recipe: Recipe | None) -> bool:
    """Whether nothing decides on the way which forwards are left out."""
    return recipe is None or recipe.step_cache is None or recipe.step_cache.leaves_out is not None


def _speed_key(run: Run) -> str:
    """A digest of what the time of a forward, and of every stage before, depends on.

    Finetunes of one model are equally fast: sizes of networks and of their files count, not their numbers.
    """
    request, recipe, memory = run.request, run.plan.recipe, run.plan.memory
    facts: list[object] = [
        run.config.transformer,
        run.config.text_encoder,
        run.config.quantization,
        *(_size(path) for path in (*run.model.transformers.values(), run.model.text_encoder)),
        *_seen_frames(run),
        memory.resident_blocks,
        memory.encode_tile,
        sorted((*run.images, *run.videos, *run.pictures)),
        request.compile,
        request.kernels,
        request.profile is not None,  # its blocks wait for each other
        request.lora_mode if any(getattr(request, name) for name in LORA_FIELDS) else "",
        "" if _is_planned(recipe) or recipe is None else recipe.settings,
        *_machine(),
    ]
    return _digest(facts)


def _seen_frames(run: Run) -> list[object]:
    """What a forward sees; of a video made block by block whatever its length."""
    plan, grid = run.plan, run.plan.sampled_geometry.grid
    return [replace(plan.blocks, count=0), grid[1:]] if plan.blocks else [grid, plan.windows]


def _decoding_facts(run: Run) -> list[object]:
    if run.request.decoder == "tiny":
        return ["tiny", run.config.vae.z_dim, *_machine()]
    return [run.config.vae, _size(run.model.vae), run.plan.memory.decode_tile, *_machine()]


def _machine() -> tuple[str, str]:
    machine = this_machine()
    return machine.device, machine.architecture


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; its precision shows in them."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(each.stat().st_size for each in files if each.is_file())


def _digest(facts: list[object]) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
