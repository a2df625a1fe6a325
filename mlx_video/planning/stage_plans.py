"""The stages of a run that make no steps: what each has in memory, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from mlx_video.latents.colours import FIT_SIDE
from mlx_video.latents.decode import choose_pace
from mlx_video.latents.tiling import tile_for_mode, tile_sides
from mlx_video.layouts.components import TINY_VAE, find_component
from mlx_video.models.peak import Peak
from mlx_video.planning.choices import MemoryChoices
from mlx_video.planning.memory_plan import StagePlan
from mlx_video.planning.memory_task import Host, MemoryTask
from mlx_video.planning.preview_memory import tiny_decode_bytes
from mlx_video.planning.stage_peaks import text_peak
from mlx_video.planning.vae_layers import Frame
from mlx_video.planning.vae_memory import decode_peak_bytes, encode_peak_bytes, scratch_bytes
from mlx_video.weights.component_networks import Workload, find_network

Choice = TypeVar("Choice")


def first_that_fits(
    choices: list[Choice], make: Callable[[Choice], StagePlan], host: Host
) -> tuple[StagePlan, Choice]:
    """The first choice that fits, else the last one."""
    for choice in choices:
        stage = make(choice)
        if stage.fits(host.budget):
            break
    return stage, choice


def make_stage(
    task: MemoryTask,
    name: str,
    holds: str,
    peak: Peak,
    host: Host,
    read_bytes: int = 0,
    *,
    keeps: bool = False,
) -> StagePlan:
    """A stage with the components, of those that some models have, that work in it; all stay with `keeps`."""
    for part, (weights, sizes) in task.sizes.parts.items():
        network = find_network(part)
        if network.stage != name:
            continue
        work = Workload(weights.number_bytes, task.num_images, task.geometry.latent_shape, task.num_samples)
        own, words = network.peak(sizes, work).beside(weights.total), find_component(part).words
        if network.placement == "before" and not keeps:
            peak, holds = peak.or_before(own), f"{words}, then {holds}"
        else:
            peak, holds = peak.beside(own.needed), f"{holds}, {words}"
    return StagePlan(name, holds, peak, peak.within(host.budget.nbytes), read_bytes)


def plan_text(task: MemoryTask, host: Host, *, is_whole: bool = False) -> StagePlan:
    """The stage of the text encoder, which is in memory as a whole or passes by block after block."""
    weights, config = task.sizes.text_encoder, task.sizes.config.text_encoder
    peak = text_peak(weights, config, task.text_lengths, on_gpu=host.machine.on_gpu, is_whole=is_whole)
    blocks = f"{'all' if is_whole else 'one of'} {len(weights.blocks)} blocks"
    return make_stage(task, "text", f"text encoder, {blocks}{'' if is_whole else ' at a time'}", peak, host)


def plan_image(task: MemoryTask, host: Host, tile: int | None, *, keeps: bool = False) -> StagePlan:
    """The stage of given frames, in tiles of a side; its networks are in memory together with `keeps`."""
    sizes = task.sizes
    nbytes = sizes.vae_bytes("encoder") + encode_peak_bytes(
        sizes.config.vae, *task.latent_size, tile=tile, gpu=host.gpu
    )
    holds = f"VAE encoder, {_describe_tile(task, tile)}"
    return make_stage(task, "image", holds, Peak(nbytes, nbytes), host, keeps=keeps)


def plan_encoding(task: MemoryTask, host: Host) -> tuple[StagePlan, int | None]:
    """The stage of frames for many clips one after the other, and the side of its tiles; None for none.

    All networks that work in it stay in memory beside each other.
    """
    return first_that_fits(list(list_tiles(task)), partial(plan_image, task, host, keeps=True), host)


def plan_colours(task: MemoryTask, host: Host) -> StagePlan:
    """The stage that fits the colours of previews to the VAE."""
    sizes = task.sizes
    config, side, gpu = sizes.config.vae, FIT_SIDE, host.gpu
    nbytes = sizes.vae_bytes("decoder") + decode_peak_bytes(config, side, side, gpu=gpu)
    if config.encoder_dim is not None:
        encoding = sizes.vae_bytes("encoder") + encode_peak_bytes(config, side, side, gpu=gpu)
        nbytes = max(nbytes, encoding)
    return make_stage(task, "preview", "VAE, one small picture at a time", Peak(nbytes, nbytes), host)


def _plan_tiny_decode(task: MemoryTask, host: Host) -> StagePlan:
    nbytes = tiny_decode_bytes(task.sizes.parts[TINY_VAE.name], Frame(*task.latent_size, host.gpu))
    return make_stage(task, "decode", "tiny decoder, frame by frame", Peak(nbytes, nbytes), host)


def plan_decode(task: MemoryTask, host: Host, tile: int | None) -> StagePlan:
    """The stage of the finished frames, in tiles of a side."""
    if task.decoder == "tiny":
        return _plan_tiny_decode(task, host)
    sizes = task.sizes
    pace = choose_pace(*task.latent_size, tile, host.gpu)
    nbytes = sizes.vae_bytes("decoder") + decode_peak_bytes(
        sizes.config.vae, *task.latent_size, tile=tile, pace=pace, gpu=host.gpu
    )
    scale, holds = sizes.config.vae.output_scale, "VAE decoder"
    if scale != 1:
        holds += f" ({task.geometry.width * scale}x{task.geometry.height * scale} pixels)"
    return make_stage(task, "decode", f"{holds}, {_describe_tile(task, tile)}", Peak(nbytes, nbytes), host)


def count_scratch_bytes(task: MemoryTask, choices: MemoryChoices) -> int:
    """Bytes of the largest temporary file of tiles; 0 where all frames are whole."""
    count = partial(scratch_bytes, task.sizes.config.vae, *task.geometry.latent_shape[1:])
    encoding = count(encodes=True) if choices.encode_tile else 0
    return max(encoding, count() if choices.decode_tile else 0)


def list_tiles(task: MemoryTask) -> Iterator[int | None]:
    """Tiles to try, largest first; None for whole frames."""
    if task.tiling != "auto":
        yield tile_for_mode(task.tiling, task.sizes.config.vae.stride[1])
        return
    sides = task.latent_size
    yield from (None if side >= max(sides) else side for side in tile_sides(*sides))


def _describe_tile(task: MemoryTask, tile: int | None) -> str:
    return "whole frames" if tile is None else f"tiles of {tile * task.sizes.config.vae.stride[1]} pixels"
