"""What stays in memory in each stage of a run, how many bytes that takes, and the choice among what fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol, TypeVar

from mlx_video.geometry import VideoGeometry
from mlx_video.latents.colours import FIT_SIDE
from mlx_video.latents.decode import choose_pace
from mlx_video.latents.tiling import tile_for_mode, tile_sides
from mlx_video.layouts.components import TINY_VAE, find_component
from mlx_video.models.block_order import BlockName
from mlx_video.models.dispatch import Limits
from mlx_video.models.peak import Peak
from mlx_video.models.transformer_memory import ForwardSize, context_cache_bytes
from mlx_video.planning.block_memory import BlockSizes, block_peak
from mlx_video.planning.budget import GB, LEAST_CACHE_BYTES, Budget, Machine
from mlx_video.planning.choices import KeptNetwork, MemoryChoices
from mlx_video.planning.division import UNDIVIDED, Division
from mlx_video.planning.model_sizes import Infos, ModelSizes
from mlx_video.planning.preview_memory import PreviewMaker, preview_peak, tiny_decode_bytes
from mlx_video.planning.stage_peaks import (
    bytes_read_per_step,
    denoise_peak,
    text_peak,
    transformer_bytes,
)
from mlx_video.planning.vae_layers import Frame
from mlx_video.planning.vae_memory import decode_peak_bytes, encode_peak_bytes, scratch_bytes
from mlx_video.planning.weight_bytes import WeightBytes, weigh
from mlx_video.request import DecoderName, StreamMode, TilingMode
from mlx_video.sampling.blocks import BlockPlan
from mlx_video.tables import html_lines, html_table
from mlx_video.weights.component_networks import Workload, find_network

_PLAN_HEAD = ("stage", "peak", "in memory")


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """A run, as far as its memory depends on it.

    Attributes:
        sizes: of the model.
        geometry: of the video.
        text_lengths: tokens of each text that is encoded.
        num_passes: forwards of a step.
        num_images: that the user gave, as many of them as the transformer reads.
        num_videos: that the user gave.
        hears_sound: whether features of a sound are made or read.
        num_samples: of the sound that the user gave.
        reads_image_tokens: whether the transformer reads tokens of an image, or what stands for them.
        leading_frames: latent frames of references, which are sampled before the video's.
        reference_frames: token frames of references that are only read.
        cache_bytes: of a step cache, for each number of a transformer's residual stream.
        keeps_both: whether two experts stay in memory together.
        adapter_bytes: of the adapters of one transformer.
        stream: whether blocks are streamed.
        tiling: of the VAE.
        only_decodes: whether the latents are there already.
        takes_steps: whether anything is denoised; a given video only goes through the VAE otherwise.
        least_frames: pixel frames below which the request makes no sense.
        window_frames: latent frames that a forward sees at once; None for all.
        num_windows: forwards of a step for each of its passes.
        previews: what makes previews.
        fits_colours: whether the colours of previews are fitted to the VAE first.
        decoder: what makes the frames.
        division: of the transformer's work over processes, of which this is one.
        blocks: in which the video is made, one after the other; None for the video as a whole.
        remembered_frames: latent frames at the start whose keys and values are kept, of the whole video.
        sees_blocks: whether self-attention gathers few blocks of keys for each block of tokens.
    """

    sizes: ModelSizes
    geometry: VideoGeometry
    text_lengths: tuple[int, ...]
    num_passes: int
    num_images: int = 0
    num_videos: int = 0
    hears_sound: bool = False
    num_samples: int = 0
    reads_image_tokens: bool = False
    reference_frames: int = 0
    leading_frames: int = 0
    cache_bytes: int = 0
    keeps_both: bool = False
    adapter_bytes: int = 0
    stream: StreamMode = "auto"
    tiling: TilingMode = "auto"
    only_decodes: bool = False
    takes_steps: bool = True
    least_frames: int = 1
    window_frames: int | None = None
    num_windows: int = 1
    previews: PreviewMaker = "none"
    fits_colours: bool = False
    decoder: DecoderName = "vae"
    division: Division = UNDIVIDED
    blocks: BlockPlan | None = None
    remembered_frames: int = 0
    sees_blocks: bool = False

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a forward; of a video made block by block those of one latent frame."""
        frames, rows, columns = self.geometry.grid
        if self.blocks:
            return rows * columns
        seen = min(frames, self.window_frames or frames) + self.leading_frames + self.reference_frames
        return seen * rows * columns

    @property
    def sampled_geometry(self) -> VideoGeometry:
        """Geometry of what is sampled, references before the video."""
        return self.geometry.with_leading(self.leading_frames)

    @property
    def encodes_frames(self) -> bool:
        """Whether the VAE's encoder works."""
        return bool(self.num_images or self.num_videos)


@dataclass(frozen=True, slots=True)
class Host:
    """Where a run is planned for."""

    machine: Machine
    budget: Budget
    limits: Limits


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a run.

    Attributes:
        name: as in the events.
        holds: what is in memory, in words.
        peak: of MLX memory.
        predicted_bytes: its value under the budget.
        read_bytes: read from files again in every step.
    """

    name: str
    holds: str
    peak: Peak
    predicted_bytes: int
    read_bytes: int = 0

    def fits(self, budget: Budget) -> bool:
        """Whether the budget is enough."""
        return self.peak.needed <= budget.nbytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A run's memory: the choices, and what each stage will take.

    Attributes:
        host: what it was planned for.
        choices: what the run keeps and what it streams or tiles.
        stages: in the order of the run.
        scratch_bytes: of the largest temporary file, in which the VAE's tiles wait.
        needs_tiles: whether the VAE could not work on whole frames.
        notices: what was adjusted or chosen for the user, as a run would say it.
        kept: the networks that stay in memory for the next run.
        reused: titles of the networks that are in memory already.
    """

    host: Host
    choices: MemoryChoices
    stages: tuple[StagePlan, ...]
    scratch_bytes: int = 0
    needs_tiles: bool = False
    notices: tuple[str, ...] = ()
    kept: tuple[KeptNetwork, ...] = ()
    reused: tuple[str, ...] = ()

    @property
    def predicted(self) -> dict[str, int]:
        """Stage → predicted peak in bytes."""
        return {stage.name: stage.predicted_bytes for stage in self.stages}

    @property
    def cache_bytes(self) -> int:
        """Freed buffers worth keeping for later arrays: half of a forward's, or what streaming leaves."""
        streamed = [stage.predicted_bytes for stage in self.stages if stage.read_bytes]
        if streamed:
            # Less would have MLX take hundreds of megabytes anew for every block.
            return max(LEAST_CACHE_BYTES, self.host.budget.nbytes - max(streamed))
        arrays = max((stage.peak.usual - stage.peak.held for stage in self.stages), default=0)
        return max(LEAST_CACHE_BYTES, arrays // 2)

    @property
    def misfits(self) -> tuple[StagePlan, ...]:
        """The stages that need more than the budget."""
        return tuple(stage for stage in self.stages if not stage.fits(self.host.budget))

    def __repr__(self) -> str:
        peaks = ", ".join(f"{name} {peak}" for name, peak, _ in self._rows())
        return f"MemoryPlan({peaks}; budget {self.host.budget.nbytes / GB:.2f} GB)"

    def __str__(self) -> str:
        """A table for people."""
        rows = [_PLAN_HEAD, *self._rows()]
        table = (f"{name:8} {peak:>10}  {holds}" for name, peak, holds in rows)
        return "\n".join([*self._lines_above(), *table, *self._lines_below()])

    def _repr_html_(self) -> str:
        above, below = html_lines(self._lines_above()), html_lines(self._lines_below())
        return f"{above}{html_table(self._rows(), _PLAN_HEAD)}{below}"

    def _rows(self) -> list[tuple[str, str, str]]:
        return [(stage.name, f"{stage.predicted_bytes / GB:.2f} GB", stage.holds) for stage in self.stages]

    def _lines_above(self) -> Iterator[str]:
        machine, budget = self.host.machine, self.host.budget
        yield from self.notices
        yield f"machine: {machine.name}, {machine.memory_bytes / GB:.1f} GB"
        yield f"budget: {budget.nbytes / GB:.2f} GB ({budget.reason})"

    def _lines_below(self) -> Iterator[str]:
        read = sum(stage.read_bytes for stage in self.stages)
        yield f"read from disk in every step: {read / GB:.2f} GB"
        if self.kept:
            titles, nbytes = ", ".join(one.title for one in self.kept), sum(one.nbytes for one in self.kept)
            yield f"kept for the next run: {titles} ({nbytes / GB:.2f} GB)"
        if self.scratch_bytes:
            yield f"temporary file of tiles: {self.scratch_bytes / GB:.2f} GB"


def plan_memory(task: MemoryTask, host: Host) -> MemoryPlan:
    """Choose what stays in memory: what is fastest of what fits; where nothing fits, what needs least.

    Args:
        task: the run.
        host: where it runs.

    Returns:
        The plan; its `misfits` are the stages for which the budget is too small whatever is chosen.
    """
    plan = _plan(task, host, choose=lambda choices: choices)
    whole = [] if task.blocks else [_plan_decode(task, host, None)]
    if task.encodes_frames and not task.only_decodes:
        whole.append(_plan_image(task, host, None))
    return replace(plan, needs_tiles=not all(stage.fits(host.budget) for stage in whole))


def fits_at_all(task: MemoryTask, host: Host) -> bool:
    """Whether there is a plan without misfits; quicker than making it."""
    return not _plan(task, host, choose=lambda choices: choices[-1:]).misfits


Choice = TypeVar("Choice")


class Choose(Protocol):
    """Picks some of the choices, which come fastest first."""

    def __call__(self, choices: list[Choice]) -> list[Choice]:
        """The choices that are tried, in order."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """How a transformer is read; see :class:`MemoryChoices`."""

    resident_blocks: int | None
    windows_at_once: int = 1

    def reads(self, task: MemoryTask) -> int:
        """How often a step reads the blocks that do not stay."""
        return -(-task.num_windows // self.windows_at_once)


def _plan(task: MemoryTask, host: Host, choose: Choose) -> MemoryPlan:
    """Make a plan from some of the choices, which come fastest first."""
    stages, choices = [], MemoryChoices()
    tiles = choose(list(_tiles(task)))
    if not task.only_decodes:
        if task.takes_steps:
            stages.append(plan_text(task, host))
            if task.hears_sound:
                stages.append(_stage(task, "audio", "features of a clip", Peak(0, 0), host))
        if task.encodes_frames:
            image, tile = _first_that_fits(tiles, partial(_plan_image, task, host), host)
            stages, choices = [*stages, image], replace(choices, encode_tile=tile)
        if task.fits_colours:
            stages.append(_plan_colours(task, host))
    if task.takes_steps and not task.only_decodes:
        weights = _heaviest(task)
        streaming = choose(list(_streaming_choices(task, weights)))
        plan_steps = _plan_blocks if task.blocks else _plan_denoise
        denoise, streamed = _first_that_fits(streaming, partial(plan_steps, task, host, weights), host)
        stages = [*stages, denoise]
        choices = replace(
            choices, resident_blocks=streamed.resident_blocks, windows_at_once=streamed.windows_at_once
        )
    if task.blocks is None:
        decode, tile = _first_that_fits(tiles, partial(_plan_decode, task, host), host)
        stages, choices = [*stages, decode], replace(choices, decode_tile=tile)
    return MemoryPlan(host, choices, tuple(stages), _scratch_bytes(task, choices))


def _first_that_fits(
    choices: list[Choice], make: Callable[[Choice], StagePlan], host: Host
) -> tuple[StagePlan, Choice]:
    """The first choice that fits, else the last one."""
    for choice in choices:
        stage = make(choice)
        if stage.fits(host.budget):
            break
    return stage, choice


def _stage(
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
    return _stage(task, "text", f"text encoder, {blocks}{'' if is_whole else ' at a time'}", peak, host)


def _plan_image(task: MemoryTask, host: Host, tile: int | None, *, keeps: bool = False) -> StagePlan:
    sizes = task.sizes
    nbytes = sizes.vae_bytes("encoder") + encode_peak_bytes(
        sizes.config.vae, *_latent_size(task), tile=tile, gpu=_gpu(host)
    )
    holds = f"VAE encoder, {_describe_tile(task, tile)}"
    return _stage(task, "image", holds, Peak(nbytes, nbytes), host, keeps=keeps)


def plan_encoding(task: MemoryTask, host: Host) -> tuple[StagePlan, int | None]:
    """The stage of frames for many clips one after the other, and the side of its tiles; None for none.

    All networks that work in it stay in memory beside each other.
    """
    return _first_that_fits(list(_tiles(task)), partial(_plan_image, task, host, keeps=True), host)


def _plan_colours(task: MemoryTask, host: Host) -> StagePlan:
    sizes = task.sizes
    config, side, gpu = sizes.config.vae, FIT_SIDE, _gpu(host)
    nbytes = sizes.vae_bytes("decoder") + decode_peak_bytes(config, side, side, gpu=gpu)
    if config.encoder_dim is not None:
        encoding = sizes.vae_bytes("encoder") + encode_peak_bytes(config, side, side, gpu=gpu)
        nbytes = max(nbytes, encoding)
    return _stage(task, "preview", "VAE, one small picture at a time", Peak(nbytes, nbytes), host)


def _plan_tiny_decode(task: MemoryTask, host: Host) -> StagePlan:
    nbytes = tiny_decode_bytes(task.sizes.parts[TINY_VAE.name], Frame(*_latent_size(task), _gpu(host)))
    return _stage(task, "decode", "tiny decoder, frame by frame", Peak(nbytes, nbytes), host)


def _plan_decode(task: MemoryTask, host: Host, tile: int | None) -> StagePlan:
    if task.decoder == "tiny":
        return _plan_tiny_decode(task, host)
    sizes = task.sizes
    pace = choose_pace(*_latent_size(task), tile, _gpu(host))
    nbytes = sizes.vae_bytes("decoder") + decode_peak_bytes(
        sizes.config.vae, *_latent_size(task), tile=tile, pace=pace, gpu=_gpu(host)
    )
    scale, holds = sizes.config.vae.output_scale, "VAE decoder"
    if scale != 1:
        holds += f" ({task.geometry.width * scale}x{task.geometry.height * scale} pixels)"
    return _stage(task, "decode", f"{holds}, {_describe_tile(task, tile)}", Peak(nbytes, nbytes), host)


def _gpu(host: Host) -> Limits | None:
    return host.limits if host.machine.on_gpu else None


def _latent_size(task: MemoryTask) -> tuple[int, int]:
    return task.geometry.latent_shape[2], task.geometry.latent_shape[3]


def _scratch_bytes(task: MemoryTask, choices: MemoryChoices) -> int:
    count = partial(scratch_bytes, task.sizes.config.vae, *task.geometry.latent_shape[1:])
    encoding = count(encodes=True) if choices.encode_tile else 0
    return max(encoding, count() if choices.decode_tile else 0)


def _tiles(task: MemoryTask) -> Iterator[int | None]:
    """Tiles to try, largest first; None for whole frames."""
    if task.tiling != "auto":
        yield tile_for_mode(task.tiling, task.sizes.config.vae.stride[1])
        return
    sides = _latent_size(task)
    yield from (None if side >= max(sides) else side for side in tile_sides(*sides))


def _describe_tile(task: MemoryTask, tile: int | None) -> str:
    return "whole frames" if tile is None else f"tiles of {tile * task.sizes.config.vae.stride[1]} pixels"


def _plan_denoise(task: MemoryTask, host: Host, weights: WeightBytes, streaming: Streaming) -> StagePlan:
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


def _plan_blocks(task: MemoryTask, host: Host, weights: WeightBytes, streaming: Streaming) -> StagePlan:
    """The stage that makes a video block by block, the VAE beside the transformer."""
    plan, config, resident_blocks = task.blocks, task.sizes.config, streaming.resident_blocks
    assert plan is not None
    channels, _, height, width = task.geometry.latent_shape
    vae_bytes = task.sizes.vae_bytes("decoder") + (task.sizes.vae_bytes("encoder") if plan.encodes else 0)
    sizes = BlockSizes(plan, (channels, height, width), config.vae, vae_bytes, _gpu(host))
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
    frame, tiny = Frame(*_latent_size(task), _gpu(host)), task.sizes.parts.get(TINY_VAE.name)
    preview = preview_peak(task.previews, latent_shape, frame, tiny)
    # A preview is made between forwards, when what stays is all there is beside it.
    peak = peak.beside(preview.held)
    work = peak.held + preview.needed - preview.held
    holds += ", tiny decoder" if task.previews == "tiny" else ""
    return _stage(task, "denoise", holds, peak.or_before(Peak(work, work)), host, read)


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


def _heaviest(task: MemoryTask) -> WeightBytes:
    """The larger of two transformers, or the only one."""
    return max(weigh_transformers(task).values(), key=lambda found: found.total)


def _streaming_choices(task: MemoryTask, weights: WeightBytes) -> Iterator[Streaming]:
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
        on_gpu=host.machine.on_gpu,
        limits=host.limits,
        remembered_tokens=task.remembered_frames * task.geometry.grid[1] * task.geometry.grid[2],
        sees_blocks=task.sees_blocks,
    )
