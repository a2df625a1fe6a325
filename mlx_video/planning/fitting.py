"""The memory plan of a run, or an error that names what would make the run fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mlx_video.config import QuantizationConfig
from mlx_video.errors import MemoryBudgetError, RequestError
from mlx_video.geometry import VideoGeometry, latent_frames, measure, pixel_frames, round_size
from mlx_video.planning.best_plan import fits_at_all, plan_memory
from mlx_video.planning.budget import GB, find_budget
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.memory_task import Host, MemoryTask
from mlx_video.planning.model_sizes import Infos
from mlx_video.planning.weight_bytes import quantized
from mlx_video.weights.network import TransformerNetwork
from mlx_video.weights.quantize import check_group_size

SCALES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the asked size, and of the asked frames, that are tried where nothing fits."""

Change = tuple[str, MemoryTask]


def fit_memory(task: MemoryTask, host: Host) -> MemoryPlan:
    """Plan a run's memory.

    Args:
        task: the run.
        host: where it runs.

    Raises:
        MemoryBudgetError: whatever is chosen, a stage needs more than there is; names what is missing, and
            every kind of change that is enough by itself.
    """
    plan = plan_memory(task, host)
    if plan.misfits:
        raise MemoryBudgetError(_explain(task, plan))
    return plan


def _explain(task: MemoryTask, plan: MemoryPlan) -> str:
    budget, worst = plan.host.budget, max(plan.misfits, key=lambda stage: stage.peak.needed)
    missing = worst.peak.needed - budget.nbytes
    cures = [text for text in (_first_fit(kind, plan.host) for kind in _kinds_of_change(task)) if text]
    if not cures and not task.only_decodes:
        cures = list(filter(None, [_first_fit(_everything_less(task), plan.host)]))
    cures += _raised_limit(worst.peak.needed, plan.host)
    cure = f"It fits with {', or with '.join(cures)}." if cures else _describe_end(task)
    return (
        f"{worst.name} needs {_in_gb(worst.peak.needed)} ({worst.holds}), the budget is "
        f"{_in_gb(budget.nbytes)} ({budget.reason}): {_in_gb(missing)} are missing. {cure}"
    )


def _describe_end(task: MemoryTask) -> str:
    fits = "the smallest tiles fit" if task.only_decodes else "a much smaller video fits"
    return f"Not even {fits}. Use a machine with more memory."


def _raised_limit(needed: int, host: Host) -> Iterator[str]:
    """What to allow where the user allows less than the machine has: every other stage fits already."""
    limit_gb = (math.floor(10 * needed / GB) + 1) / 10
    if limit_gb * GB <= find_budget(host.machine).nbytes:
        yield f"--memory-limit {limit_gb:g}"


def _in_gb(nbytes: int) -> str:
    return f"{nbytes / GB:.3g} GB"


def _first_fit(changes: Iterable[Change], host: Host) -> str | None:
    """The first change with which everything fits."""
    return next((text for text, task in changes if fits_at_all(task, host)), None)


def _kinds_of_change(task: MemoryTask) -> Iterator[Iterator[Change]]:
    """Changes by kind, the mildest change of each kind first; latents that are there stay as they are."""
    yield _freed(task)
    if task.only_decodes:
        return
    yield _quantized(task)
    yield _smaller(task)
    yield _shorter(task)


def _freed(task: MemoryTask) -> Iterator[Change]:
    """Without one of the choices that the user made against saving; at last without any."""
    changes: dict[str, dict[str, Any]] = {}
    if task.keeps_both:
        changes["--experts relay"] = {"keeps_both": False}
    if task.stream == "off":
        changes["--stream auto"] = {"stream": "auto"}
    if task.tiling != "auto":
        changes["--tiling auto"] = {"tiling": "auto"}
    free = task
    for flag, change in changes.items():
        yield flag, replace(task, **change)
        free = replace(free, **change)
    if changes:
        yield " ".join(changes), free


def _quantized(task: MemoryTask) -> Iterator[Change]:
    sizes = task.sizes
    if any(info.name.endswith(".scales") for infos in sizes.transformers.values() for info in infos):
        return
    for bits in (8, 4):
        packing = QuantizationConfig(bits)
        if not all(_can_pack(infos, packing, sizes.network) for infos in sizes.transformers.values()):
            return
        packed = {
            name: tuple(quantized(infos, packing, sizes.network.is_quantized))
            for name, infos in sizes.transformers.items()
        }
        text = f"a model converted with --quantize --bits {bits}"
        yield text, replace(task, sizes=replace(sizes, transformers=packed))


def _can_pack(infos: Infos, packing: QuantizationConfig, network: TransformerNetwork) -> bool:
    try:
        check_group_size({info.name: info.shape for info in infos}, packing, network.is_quantized)
    except RequestError:
        return False
    return True


def _smaller(task: MemoryTask) -> Iterator[Change]:
    for scale in SCALES:
        geometry = task.geometry
        smaller = _measure(task, geometry.width * scale, geometry.height * scale, geometry.num_frames)
        yield f"--width {smaller.width} --height {smaller.height}", replace(task, geometry=smaller)


def _shorter(task: MemoryTask) -> Iterator[Change]:
    """Fewer frames in memory at once: of the video, or of those that its blocks see."""
    if task.blocks:
        for context in sorted({max(1, int(task.blocks.context * scale)) for scale in SCALES}, reverse=True):
            yield f"--kv-cache-frames {context}", replace(task, blocks=replace(task.blocks, context=context))
        return
    geometry, stride = task.geometry, task.sizes.config.vae.stride[0]
    least = latent_frames(task.least_frames + stride - 1, stride)
    for scale in SCALES:
        shortened = latent_frames(max(1, int(geometry.num_frames * scale)), stride)
        frames = pixel_frames(max(least, shortened), stride)
        shorter = _measure(task, geometry.width, geometry.height, frames)
        yield f"--num-frames {frames}", replace(task, geometry=shorter)


def _everything_less(task: MemoryTask) -> Iterator[Change]:
    """Smaller and shorter, without the choices against saving; of the model, then of a quantized one."""
    *_, (flags, free) = [("", task), *_freed(task)]
    for text, sizes in (("", free), *((f"{text} and ", packed) for text, packed in _quantized(free))):
        for (size, small), scale in zip(_smaller(sizes), range(len(SCALES)), strict=True):
            less = list(_shorter(small))
            frames, shorter = less[min(scale, len(less) - 1)]
            yield f"{text}{f'{flags} ' if flags else ''}{size} {frames}", shorter


def _measure(task: MemoryTask, width: float, height: float, num_frames: int) -> VideoGeometry:
    vae, patch_size = task.sizes.config.vae, task.sizes.config.transformer.patch_size
    sides = round_size(max(1, int(width)), max(1, int(height)), vae.stride, patch_size)
    return measure(
        *sides,
        num_frames,
        z_dim=vae.z_dim,
        stride=vae.stride,
        patch_size=patch_size,
        output_scale=vae.output_scale,
    )
