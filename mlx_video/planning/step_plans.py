"""The stage of the steps: what it has in memory, with a transformer as a whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from mlx_video.layouts.components import TINY_VAE
from mlx_video.models.block_order import BlockName
from mlx_video.models.peak import Peak
from mlx_video.models.transformer_memory import ForwardSize, context_cache_bytes
from mlx_video.planning.block_memory import BlockSizes, block_peak
from mlx_video.planning.budget import GB
from mlx_video.planning.memory_plan import StagePlan
from mlx_video.planning.memory_task import Host, MemoryTask
from mlx_video.planning.model_sizes import Infos
from mlx_video.planning.preview_memory import preview_peak
from mlx_video.planning.stage_peaks import bytes_read_per_step, denoise_peak, transformer_bytes
from mlx_video.planning.stage_plans import make_stage
from mlx_video.planning.vae_layers import Frame
from mlx_video.planning.weight_bytes import WeightBytes, weigh


@dataclass(frozen=True, slots=True)
class Streaming:
    """How a transformer is read; see :class:`MemoryChoices`."""

    resident_blocks: int | None
    windows_at_once: int = 1

    def reads(self, task: MemoryTask) -> int:
        """How often a step reads the blocks that do not stay."""
        return -(-task.num_windows // self.windows_at_once)


def plan_denoise(task: MemoryTask, host: Host, weights: WeightBytes, streaming: Streaming) -> StagePlan:
    """The stage that denoises a video as a whole, or window by window."""
    resident_blocks = streaming.resident_blocks
    together = len(task.sizes.transformers) if task.keeps_both else 1
    peak = denoise_peak(
        replace(forward_size(task, weights, host), windows_at_once=streaming.windows_at_once),
        weights,
        task.sampled_geometry,
        resident_blocks=resident_blocks,
        num_transformers=together,
        adapter_bytes=task.adapter_bytes,
        network=task.sizes.network,
        cache_bytes=task.cache_bytes,
        num_windows=task.num_windows,
        division=task.division,
    )
    read = streaming.reads(task) * together * bytes_read_per_step(weights, resident_blocks)
    blocks = task.division.describe(_describe_blocks(len(weights.blocks), resident_blocks if read else None))
    if streaming.windows_at_once > 1:
        blocks += f" for {streaming.windows_at_once} windows at a time"
    holds = f"{_describe_transformers(task)}, {blocks}"
    return _with_previews(task, host, holds, peak, task.sampled_geometry.latent_shape, read)


def plan_blocks(task: MemoryTask, host: Host, weights: WeightBytes, streaming: Streaming) -> StagePlan:
    """The stage that makes a video block by block, the VAE beside the transformer."""
    plan, config, resident_blocks = task.blocks, task.sizes.config, streaming.resident_blocks
    assert plan is not None
    channels, _, height, width = task.geometry.latent_shape
    vae_bytes = task.sizes.vae_bytes("decoder") + (task.sizes.vae_bytes("encoder") if plan.encodes else 0)
    sizes = BlockSizes(plan, (channels, height, width), config.vae, vae_bytes, host.gpu)
    size, read = forward_size(task, weights, host), bytes_read_per_step(weights, resident_blocks)
    in_use = transformer_bytes(weights, resident_blocks, task.adapter_bytes)
    peak = block_peak(size, sizes, task.sizes.network, in_use, is_streamed=read > 0)
    cache = context_cache_bytes(replace(size, context_tokens=plan.context * size.num_tokens))
    holds = (
        f"transformer, {_describe_blocks(len(weights.blocks), resident_blocks if read else None)}, keys and "
        f"values of {plan.context} latent frames ({cache / GB:.2f} GB), VAE"
    )
    return _with_previews(task, host, holds, peak, (channels, plan.frames, height, width), read)


def _with_previews(
    task: MemoryTask, host: Host, holds: str, peak: Peak, latent_shape: tuple[int, int, int, int], read: int
) -> StagePlan:
    """The stage of the steps, with previews of latents of a shape between them."""
    frame, tiny = Frame(*task.latent_size, host.gpu), task.sizes.parts.get(TINY_VAE.name)
    preview = preview_peak(task.previews, latent_shape, frame, tiny)
    # A preview is made between forwards, when what stays is all there is beside it.
    peak = peak.beside(preview.held)
    work = peak.held + preview.needed - preview.held
    holds += ", tiny decoder" if task.previews == "tiny" else ""
    return make_stage(task, "denoise", holds, peak.or_before(Peak(work, work)), host, read)


def weigh_transformers(task: MemoryTask) -> dict[str, WeightBytes]:
    """Name of each transformer → bytes of its parts."""
    config = task.sizes.config
    order = task.sizes.network.block_order(config.transformer)
    share = partial(task.division.share_tensors, config=config.transformer)
    found = {name: _weigh(tuple(share(infos)), order) for name, infos in task.sizes.transformers.items()}
    if config.quantization is None:
        return found
    # Shapes alone do not tell 8 bits in groups of 32 from 4 bits in groups of 64.
    return {name: replace(weights, bits=config.quantization.bits) for name, weights in found.items()}


def find_heaviest(task: MemoryTask) -> WeightBytes:
    """The larger of two transformers, or the only one."""
    return max(weigh_transformers(task).values(), key=lambda found: found.total)


def list_streaming(task: MemoryTask, weights: WeightBytes) -> Iterator[Streaming]:
    """Ways to read a transformer, that which reads least in a step first."""
    if task.stream != "on" or not task.division.streams:
        yield Streaming(None)
    streamed = [
        Streaming(resident, at_once)
        for resident in _resident_choices(task)
        for at_once in sorted({-(-task.num_windows // groups) for groups in range(1, task.num_windows + 1)})
    ]
    yield from sorted(
        streamed, key=lambda one: one.reads(task) * bytes_read_per_step(weights, one.resident_blocks)
    )


def _resident_choices(task: MemoryTask) -> Iterator[int]:
    if not task.division.streams:
        return
    if task.stream == "on":
        yield 0
    # Both experts are kept to save time; streaming would lose more of it than the relay does.
    if task.stream == "auto" and not task.keeps_both:
        order = task.sizes.network.block_order(task.sizes.config.transformer)
        yield from range(len(order) - 1, -1, -1)


def _describe_transformers(task: MemoryTask) -> str:
    if len(task.sizes.transformers) == 1:
        return "transformer"
    return "both experts" if task.keeps_both else "one expert at a time"


def _describe_blocks(num_blocks: int, resident_blocks: int | None) -> str:
    if resident_blocks is None:
        return f"all {num_blocks} blocks"
    return f"{resident_blocks} of {num_blocks} blocks, the others streamed"


# Runs leave nothing to each other here: the same header always weighs the same.
@lru_cache(maxsize=8)
def _weigh(infos: Infos, order: tuple[BlockName, ...]) -> WeightBytes:
    return weigh(infos, order)


def forward_size(task: MemoryTask, weights: WeightBytes, host: Host) -> ForwardSize:
    """The size of a forward of a transformer of these weights."""
    return ForwardSize(
        config=task.sizes.config.transformer,
        num_tokens=task.tokens_at_once,
        number_bytes=weights.number_bytes,
        bits=weights.bits,
        image_tokens=task.sizes.image_tokens(max(task.num_images, task.reads_image_tokens)),
        num_passes=task.num_passes,
        num_prompts=task.num_prompts,
        on_gpu=host.machine.on_gpu,
        limits=host.limits,
        remembered_tokens=task.remembered_frames * task.geometry.grid[1] * task.geometry.grid[2],
        sees_blocks=task.sees_blocks,
    )
